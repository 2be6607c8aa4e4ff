from agave.results import codec_path


# Compress test images to files as long as the likelihoods with the models of the first seed.
rule codec_cell:
    input:
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        bound="results/{preset}/evaluate/{cell}/seed~{seed}/per_image.npz",
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        codec="results/{preset}/codec/{cell}/seed~{seed}/codec.csv",
        bits="results/{preset}/codec/{cell}/seed~{seed}/codec.npz",
        file="results/{preset}/codec/{cell}/seed~{seed}/images.agv",
        run="results/{preset}/codec/{cell}/seed~{seed}/codec.json",
    log:
        "logs/{preset}/codec/{cell}/seed~{seed}.log",
    benchmark:
        "logs/{preset}/codec/{cell}/seed~{seed}.tsv"
    threads: 1
    resources:
        mem_mb=memory("codec_cell"),
        runtime=minutes("codec_cell"),
        gpu=1,
    params:
        model=lambda wildcards: networks(cell_of(wildcards)),
        codec=block("codec", without=["cells", "others"]),
        source=lambda wildcards: source("codec", cell_of(wildcards).system),
    shell:
        "agave codec {wildcards.cell} --preset {wildcards.preset} --seed {wildcards.seed} --model {input.model} --bound {input.bound}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.codec}) > {log} 2>&1"


rule codec:
    input:
        PRUNED,
        expand("results/{preset}/{path}", preset=PRESET, path=[codec_path(cell, SEEDS[0]) for cell in grid.codec_cells(PARAMS)]),
