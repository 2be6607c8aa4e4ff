# The pages of the report that show text. `make report` puts them and the figures into one file, reports/<preset>.html.
localrules:
    report_pages,


rule report_pages:
    input:
        expand("results/{{preset}}/{path}", path=pages.inputs(PARAMS)),
    output:
        table1=report(
            "reports/{preset}/table1.html",
            caption="../report/table1.rst",
            category="Tables",
            labels={"table": "Table 1"},
        ),
        claims=report(
            "reports/{preset}/claims.html",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "Claims and verdicts"},
        ),
        compute=report(
            "reports/{preset}/compute.html",
            caption="../report/compute.rst",
            category="Compute",
            labels={"table": "Time and memory of each step"},
        ),
        provenance=report(
            "reports/{preset}/provenance.html",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"table": "Data, software, code and every step"},
        ),
    log:
        "logs/{preset}/report.log",
    benchmark:
        "logs/{preset}/report.tsv"
    threads: 1
    resources:
        mem_mb=600,
        runtime=10,
    params:
        source=source("report"),
    shell:
        "agave report --preset {wildcards.preset} --results results/{wildcards.preset}" " --output $(dirname {output.claims}) > {log} 2>&1"


rule report:
    input:
        expand(rules.report_pages.output, preset=PRESET),
