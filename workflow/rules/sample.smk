# Draw reconstructions and samples for the figures, with the same test images and noise for every cell, by the models of the first seed.
rule sample_cell:
    input:
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        samples="results/{preset}/sample/{cell}/seed~{seed}/samples.npz",
        run="results/{preset}/sample/{cell}/seed~{seed}/samples.json",
    log:
        "logs/{preset}/sample/{cell}/seed~{seed}.log",
    benchmark:
        "logs/{preset}/sample/{cell}/seed~{seed}.tsv"
    threads: 1
    resources:
        mem_mb=memory("sample_cell"),
        runtime=minutes("sample_cell"),
        gpu=1,
    params:
        model=lambda wildcards: networks(cell_of(wildcards)),
        sample=block("sample", without=["batch"]),
        source=lambda wildcards: source("sample", cell_of(wildcards).system),
    shell:
        "agave sample {wildcards.cell} --preset {wildcards.preset} --seed {wildcards.seed} --model {input.model}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.samples}) > {log} 2>&1"


rule sample:
    input:
        PRUNED,
        cell_files("sample", "samples.npz", seeds=SEEDS[:1]),
