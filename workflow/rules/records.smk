# The end of the workflow: sum up the cost of each step from the run records, and write the SHA-256 of every small result for `make verify`.
rule write_records:
    input:
        expand("results/{{preset}}/{path}", path=records.inputs(PARAMS)),
    output:
        compute=report(
            "results/{preset}/records/compute.csv",
            caption="../report/compute.rst",
            category="Compute",
            labels={"table": "Time and memory as csv (download)"},
        ),
        markdown="results/{preset}/records/compute.md",
        checksums="results/{preset}/records/SHA256SUMS",
        run="results/{preset}/records/run.json",
    log:
        "logs/{preset}/records.log",
    benchmark:
        "logs/{preset}/records.tsv"
    threads: 1
    resources:
        mem_mb=600,
        runtime=10,
    params:
        source=source("records"),
    shell:
        "agave records --preset {wildcards.preset} --results results/{wildcards.preset} > {log} 2>&1"


rule records:
    input:
        expand(rules.write_records.output, preset=PRESET),
