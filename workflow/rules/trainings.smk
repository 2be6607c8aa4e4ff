# Collect all training histories and run records in two small files that are kept in git; the folders of the trainings are in DVC's cache.
rule gather_trainings:
    input:
        expand("results/{{preset}}/{path}", path=trainings.inputs(PARAMS)),
    output:
        histories="results/{preset}/trainings/history.csv",
        runs="results/{preset}/trainings/runs.jsonl",
        run="results/{preset}/trainings/run.json",
    log:
        "logs/{preset}/trainings.log",
    benchmark:
        "logs/{preset}/trainings.tsv"
    threads: 1
    resources:
        mem_mb=600,
        runtime=10,
    params:
        source=source("trainings"),
    shell:
        "agave trainings --preset {wildcards.preset} --results results/{wildcards.preset} > {log} 2>&1"


rule trainings:
    input:
        expand(rules.gather_trainings.output, preset=PRESET),
