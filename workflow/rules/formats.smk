# Compress the test images of codec.smk with common image formats, for comparison.
rule compress_with_formats:
    input:
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        sizes="results/{preset}/formats/formats.csv",
        run="results/{preset}/formats/run.json",
    log:
        "logs/{preset}/formats.log",
    benchmark:
        "logs/{preset}/formats.tsv"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=30,
    params:
        codec=block("codec", without=["cells", "group"]),
        source=source("formats"),
    shell:
        "agave formats --preset {wildcards.preset} --data results/{wildcards.preset}/prepare --output $(dirname {output.sizes}) > {log} 2>&1"


rule formats:
    input:
        expand(rules.compress_with_formats.output, preset=PRESET),
