from agave.steps import tables as tables_step


# All bounds of the grid, Table 1, and what `dvc metrics` compares. Cells that an earlier grid left behind are not inputs.
rule write_tables:
    input:
        expand("results/{{preset}}/{path}", path=tables_step.inputs(PARAMS)),
    output:
        bounds="results/{preset}/tables/bounds.csv",
        iwae="results/{preset}/tables/iwae.csv",
        table1=report(
            "results/{preset}/tables/table1.csv",
            caption="../report/table1.rst",
            category="Tables",
            labels={"table": "Table 1 as csv (download)"},
        ),
        markdown="results/{preset}/tables/table1.md",
        latex="results/{preset}/tables/table1.tex",
        order="results/{preset}/tables/order.csv",
        codec=report(
            "results/{preset}/tables/codec.csv",
            caption="../report/codec.rst",
            category="Tables",
            labels={"table": "Compressed files as csv (download)"},
        ),
        compressed="results/{preset}/tables/codec.md",
        metrics="results/{preset}/tables/metrics.json",
        run="results/{preset}/tables/run.json",
    log:
        "logs/{preset}/tables.log",
    benchmark:
        "logs/{preset}/tables.tsv"
    threads: 1
    resources:
        mem_mb=600,
        runtime=10,
    params:
        options=tables_step.options(PARAMS),
        source=source("tables"),
    shell:
        "agave tables --preset {wildcards.preset} --results results/{wildcards.preset} > {log} 2>&1"


rule tables:
    input:
        expand(rules.write_tables.output, preset=PRESET),
