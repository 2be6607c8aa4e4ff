# Draw reconstructions and samples with the same test images and noise for every cell and seed. All images go to drawn/, which DVC keeps;
# git keeps their measures, for the claims, and those that the figures show, of the first seed.
rule sample_cell:
    input:
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        samples="results/{preset}/drawn/{cell}/seed~{seed}/samples.npz",
        measures="results/{preset}/sample/{cell}/seed~{seed}/measures.npz",
        shown="results/{preset}/sample/{cell}/seed~{seed}/shown.npz",
        run="results/{preset}/sample/{cell}/seed~{seed}/measures.json",
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
        is_shown=lambda wildcards: int(wildcards.seed) == SEEDS[0],
        source=lambda wildcards: source("sample", cell_of(wildcards).system),
    shell:
        "agave sample {wildcards.cell} --preset {wildcards.preset} --seed {wildcards.seed} --model {input.model}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.measures}) --drawn $(dirname {output.samples}) > {log} 2>&1"


rule sample:
    input:
        PRUNED,
        cell_files("sample", "measures.npz"),
