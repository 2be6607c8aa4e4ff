from agave.steps import page as page_step


# The paper, reproduced: every figure, table and verdict in one html file, from small files alone.
rule write_page:
    input:
        "claims.yaml",
        expand("results/{{preset}}/{path}", path=page_step.inputs(PARAMS)),
    output:
        page="results/{preset}/page/index.html",
        run="results/{preset}/page/run.json",
    log:
        "logs/{preset}/page.log",
    benchmark:
        "logs/{preset}/page.tsv"
    threads: 1
    resources:
        mem_mb=600,
        runtime=10,
    params:
        options=page_step.options(PARAMS),
        source=source("page"),
    shell:
        "agave page --preset {wildcards.preset} --results results/{wildcards.preset} > {log} 2>&1"


rule page:
    input:
        expand(rules.write_page.output, preset=PRESET),
