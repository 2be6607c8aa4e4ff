from agave.steps import claims as claims_step


# Decide each claim of the paper (claims.yaml): a verdict with the intervals that decide it.
rule decide_claims:
    input:
        "claims.yaml",
        expand("results/{{preset}}/{path}", path=claims_step.inputs(PARAMS)),
    output:
        comparisons=report(
            "results/{preset}/claims/claims.csv",
            caption="../report/comparisons.rst",
            category="Claims",
            labels={"table": "Every comparison as csv (download)"},
        ),
        markdown="results/{preset}/claims/claims.md",
        power="results/{preset}/claims/power.csv",
        run="results/{preset}/claims/run.json",
    log:
        "logs/{preset}/claims.log",
    benchmark:
        "logs/{preset}/claims.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        options=claims_step.options(PARAMS),
        source=source("claims"),
    shell:
        "agave claims --preset {wildcards.preset} --results results/{wildcards.preset} > {log} 2>&1"


rule claims:
    input:
        expand(rules.decide_claims.output, preset=PRESET),
