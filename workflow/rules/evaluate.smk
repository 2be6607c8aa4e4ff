# Bounds on the test images: the one-sample bound in its terms for every cell, the importance-sampled one for Table 1.
rule evaluate_bound:
    input:
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        bound="results/{preset}/evaluate/{cell}/seed~{seed}/bound.csv",
        per_image="results/{preset}/evaluate/{cell}/seed~{seed}/per_image.npz",
        run="results/{preset}/evaluate/{cell}/seed~{seed}/bound.json",
    log:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-bound.log",
    benchmark:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-bound.tsv"
    threads: 1
    resources:
        mem_mb=1200,
        runtime=60,
        gpu=1,
    params:
        model=lambda wildcards: networks(cell_of(wildcards)),
        seed=PARAMS.evaluate.seed,
        source=SOURCES["evaluate"],
    shell:
        "agave evaluate {wildcards.cell} --preset {wildcards.preset} --seed {wildcards.seed} --model {input.model}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.bound}) > {log} 2>&1"


rule evaluate_iwae:
    input:
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        iwae="results/{preset}/evaluate/{cell}/seed~{seed}/iwae.csv",
        per_image="results/{preset}/evaluate/{cell}/seed~{seed}/iwae.npz",
        run="results/{preset}/evaluate/{cell}/seed~{seed}/iwae.json",
    log:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-iwae.log",
    benchmark:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-iwae.tsv"
    threads: 1
    resources:
        mem_mb=1200,
        runtime=60,
        gpu=1,
    params:
        model=lambda wildcards: networks(cell_of(wildcards)),
        evaluate=block("evaluate", without=["batch"]),
        source=SOURCES["evaluate"],
    shell:
        "agave evaluate {wildcards.cell} --iwae --preset {wildcards.preset} --seed {wildcards.seed} --model {input.model}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.iwae}) > {log} 2>&1"


rule evaluate:
    input:
        cell_files("evaluate", "bound.csv"),
        cell_files("evaluate", "iwae.csv", cells.table_cells(PARAMS)),
