# Verify and split the images, and store them as arrays. This is small work that needs a network: on a cluster it runs on the login node.
# The later steps depend on manifest.json, which holds the SHA-256 of the arrays. The time stamps of the arrays do not count.
localrules:
    prepare_images,


rule prepare_images:
    input:
        own_images,
    output:
        train="results/{preset}/prepare/train.npy",
        test="results/{preset}/prepare/test.npy",
        manifest="results/{preset}/prepare/manifest.json",
        run="results/{preset}/prepare/run.json",
    log:
        "logs/{preset}/prepare.log",
    benchmark:
        "logs/{preset}/prepare.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        prepare=block("prepare"),
        images=images_option,
        folder=listing.fingerprint(IMAGES) if IMAGES else None,
        source=source("prepare"),
    shell:
        "agave prepare --preset {wildcards.preset} {params.images} --output results/{wildcards.preset}/prepare > {log} 2>&1"


rule prepare:
    input:
        expand(rules.prepare_images.output, preset=PRESET),
