# Both networks are trained together, in one job per cell of the grid and seed. The baselines are trained alone for as many steps.
rule joint_cell:
    input:
        unpack(pretrained_files),
        manifest="results/{preset}/prepare/manifest.json",
        train=ancient("results/{preset}/prepare/train.npy"),
    output:
        model="results/{preset}/joint/{cell}/seed~{seed}/model.safetensors",
        raw="results/{preset}/joint/{cell}/seed~{seed}/raw.safetensors",
        history="results/{preset}/joint/{cell}/seed~{seed}/history.csv",
        run="results/{preset}/joint/{cell}/seed~{seed}/run.json",
    log:
        "logs/{preset}/joint/{cell}/seed~{seed}.log",
    benchmark:
        "logs/{preset}/joint/{cell}/seed~{seed}.tsv"
    priority: 1
    threads: 1
    resources:
        mem_mb=memory("joint_cell"),
        runtime=minutes("joint_cell"),
        gpu=1,
    params:
        model=lambda wildcards: networks(cell_of(wildcards)),
        compute=compute(),
        joint=lambda wildcards: grid.training_of(cell_of(wildcards), PARAMS).model_dump(),
        pretrained=pretrained_options,
        source=lambda wildcards: source("joint", cell_of(wildcards).system),
    shell:
        "exec agave joint {wildcards.cell} --preset {wildcards.preset} --seed {wildcards.seed} {params.pretrained}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.model}) --devices {resources.gpu} > {log} 2>&1"


rule joint:
    input:
        PRUNED,
        expand(
            rules.joint_cell.output,
            preset=PRESET,
            cell=[cell.name for cell in grid.all_cells(PARAMS)],
            seed=SEEDS,
        ),
