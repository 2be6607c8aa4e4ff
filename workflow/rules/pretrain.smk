# A VAE for each resolution of the auxiliary image, and the PixelCNN++, are trained independently, side by side.
# Most trainings wait for the PixelCNN++, so it has the highest priority, and the rest of the trainings go before short jobs, which then
# fill the cores to the end. `exec` passes the signals that announce a time limit or a preemption to the training itself.
rule pretrain_vae:
    input:
        manifest="results/{preset}/prepare/manifest.json",
        train=ancient("results/{preset}/prepare/train.npy"),
    output:
        model="results/{preset}/pretrain/vae-resolution~{resolution}/seed~{seed}/model.safetensors",
        raw="results/{preset}/pretrain/vae-resolution~{resolution}/seed~{seed}/raw.safetensors",
        history="results/{preset}/pretrain/vae-resolution~{resolution}/seed~{seed}/history.csv",
        run="results/{preset}/pretrain/vae-resolution~{resolution}/seed~{seed}/run.json",
    log:
        "logs/{preset}/pretrain/vae-resolution~{resolution}/seed~{seed}.log",
    benchmark:
        "logs/{preset}/pretrain/vae-resolution~{resolution}/seed~{seed}.tsv"
    priority: 2
    threads: 1
    resources:
        mem_mb=memory("pretrain_vae"),
        runtime=minutes("pretrain_vae"),
        gpu=1,
    params:
        model=networks(grid.Cell("vae")),
        compute=compute(),
        pretrain=block("pretrain", "vae"),
        kl_weight=PARAMS.pretrain.vae_kl_weight,
        source=source("pretrain", "vae_iaf"),
    shell:
        "exec agave pretrain vae --preset {wildcards.preset} --resolution {wildcards.resolution} --seed {wildcards.seed}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.model}) --devices {resources.gpu} > {log} 2>&1"


rule pretrain_pixelcnn_pp:
    input:
        manifest="results/{preset}/prepare/manifest.json",
        train=ancient("results/{preset}/prepare/train.npy"),
    output:
        model="results/{preset}/pretrain/pixelcnn_pp/seed~{seed}/model.safetensors",
        raw="results/{preset}/pretrain/pixelcnn_pp/seed~{seed}/raw.safetensors",
        history="results/{preset}/pretrain/pixelcnn_pp/seed~{seed}/history.csv",
        run="results/{preset}/pretrain/pixelcnn_pp/seed~{seed}/run.json",
    log:
        "logs/{preset}/pretrain/pixelcnn_pp/seed~{seed}.log",
    benchmark:
        "logs/{preset}/pretrain/pixelcnn_pp/seed~{seed}.tsv"
    priority: 3
    threads: 1
    resources:
        mem_mb=memory("pretrain_pixelcnn_pp"),
        runtime=minutes("pretrain_pixelcnn_pp"),
        gpu=1,
    params:
        model=networks(grid.Cell("pixelcnn_pp")),
        compute=compute(),
        pretrain=block("pretrain", "pixelcnn_pp"),
        source=source("pretrain", "pixelcnn_pp"),
    shell:
        "exec agave pretrain pixelcnn_pp --preset {wildcards.preset} --seed {wildcards.seed}"
        " --data results/{wildcards.preset}/prepare --output $(dirname {output.model}) --devices {resources.gpu} > {log} 2>&1"


rule pretrain:
    input:
        PRUNED,
        expand(rules.pretrain_pixelcnn_pp.output, preset=PRESET, seed=SEEDS),
        expand(
            rules.pretrain_vae.output,
            preset=PRESET,
            resolution=sorted({cell.resolution for cell in grid.all_cells(PARAMS) if cell.has_vae}),
            seed=SEEDS,
        ),
