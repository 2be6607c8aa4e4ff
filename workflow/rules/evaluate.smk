# Bounds on the test images: the one-sample bound in its terms for every cell, and the importance-sampled bound for Table 1.
# The latter costs most after the trainings. Its images are scattered over jobs; `--set-scatter iwae=N`, or `set-scatter` in a
# profile, sets their number. The values of an image do not depend on it. A job that is run again resumes from its saved state
# (work/).
scattergather:
    iwae=1,


SHARDS = len(gather.iwae("{scatteritem}"))
if (PARAMS.iwae_images or SHARDS) < SHARDS:
    sys.exit(f"error: --set-scatter iwae={SHARDS}: only {PARAMS.iwae_images} images are evaluated; accepted: 1 to {PARAMS.iwae_images}")


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
        mem_mb=memory("evaluate_bound"),
        runtime=minutes("evaluate_bound"),
        gpu=1,
    params:
        model=lambda wildcards: networks(cell_of(wildcards)),
        seed=PARAMS.evaluate.seed,
        mapped=lambda wildcards: cell_of(wildcards) in grid.mapped_cells(PARAMS),
        source=lambda wildcards: source("evaluate", cell_of(wildcards).system),
    shell:
        "agave evaluate bound {wildcards.cell} --preset {wildcards.preset} --seed {wildcards.seed} --model {input.model}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.bound}) > {log} 2>&1"


rule evaluate_iwae:
    input:
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        shard=temp("results/{preset}/evaluate/{cell}/seed~{seed}/iwae-{scatteritem}.npz"),
        run=temp("results/{preset}/evaluate/{cell}/seed~{seed}/iwae-{scatteritem}.json"),
    log:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-iwae.{scatteritem}.log",
    benchmark:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-iwae.{scatteritem}.tsv"
    threads: 1
    resources:
        mem_mb=memory("evaluate_iwae"),
        runtime=minutes("evaluate_iwae"),
        gpu=1,
    params:
        model=lambda wildcards: networks(cell_of(wildcards)),
        evaluate=block("evaluate", without=["batch"]),
        source=lambda wildcards: source("evaluate", cell_of(wildcards).system),
    shell:
        "exec agave evaluate iwae {wildcards.cell} --shard {wildcards.scatteritem} --preset {wildcards.preset} --seed {wildcards.seed}"
        " --model {input.model} --data results/{wildcards.preset}/prepare --output $(dirname {output.shard}) > {log} 2>&1"


localrules:
    gather_iwae,


rule gather_iwae:
    input:
        shards=gather.iwae("results/{{preset}}/evaluate/{{cell}}/seed~{{seed}}/iwae-{scatteritem}.npz"),
        runs=gather.iwae("results/{{preset}}/evaluate/{{cell}}/seed~{{seed}}/iwae-{scatteritem}.json"),  # for the cost of the parts
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        manifest="results/{preset}/prepare/manifest.json",
        test=ancient("results/{preset}/prepare/test.npy"),
    output:
        iwae="results/{preset}/evaluate/{cell}/seed~{seed}/iwae.csv",
        growth="results/{preset}/evaluate/{cell}/seed~{seed}/growth.csv",
        per_image="results/{preset}/evaluate/{cell}/seed~{seed}/iwae.npz",
        run="results/{preset}/evaluate/{cell}/seed~{seed}/iwae.json",
    log:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-gather.log",
    benchmark:
        "logs/{preset}/evaluate/{cell}/seed~{seed}-gather.tsv"
    threads: 1
    resources:
        mem_mb=600,
        runtime=10,
    params:
        shards=SHARDS,
        evaluate=block("evaluate", without=["batch"]),
        source=lambda wildcards: source("evaluate", cell_of(wildcards).system),
    shell:
        "agave evaluate gather {wildcards.cell} {params.shards} --preset {wildcards.preset} --seed {wildcards.seed}"
        " --model {input.model} --data results/{wildcards.preset}/prepare --output $(dirname {output.iwae}) > {log} 2>&1"


rule evaluate:
    input:
        PRUNED,
        cell_files("evaluate", "bound.csv"),
        cell_files("evaluate", "iwae.csv", grid.sampled_cells(PARAMS)),
