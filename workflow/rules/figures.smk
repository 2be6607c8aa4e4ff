from agave.steps import figures as figures_step

# One rule per figure, so that a changed result redraws only the figures that show it. They read small csv and npz files, never a model.
SHOWS = {
    "1a": "samples of the VAE alone",
    "1b": "samples of PixelCNN++ alone",
    "1c": "samples of AGAVE",
    "2": "the model",
    "3a": "reconstructions, by KL weight",
    "3b": "samples, by KL weight",
    "4": "bits/dim, by KL weight",
    "5a": "reconstructions, by colour levels",
    "5b": "bits/dim, by colour levels",
    "6": "samples with coarser auxiliary images",
    "completions": "images of which some rows are given",
    "samples": "samples of all systems",
    "bits": "where on the image the bits go",
    "table1": "Table 1, ours against published",
    "codec": "compressed files",
    "growth": "the bound, by number of samples",
    "training": "training curves",
}


for NAME in figures.NAMES:

    rule:
        name:
            f"figure_{NAME}"
        input:
            expand("results/{{preset}}/{path}", path=figures_step.inputs(NAME, PARAMS)),
        output:
            pdf=f"results/{{preset}}/figures/figure{NAME}.pdf",
            png=report(
                f"results/{{preset}}/figures/figure{NAME}.png",
                caption=f"../report/figure{NAME}.rst",
                category="Figures",
                labels={"figure": NAME, "shows": SHOWS[NAME]},
            ),
            data=f"results/{{preset}}/figures/figure{NAME}.{'npz' if NAME in figures.IMAGE_FIGURES else 'csv'}",
            run=f"results/{{preset}}/figures/figure{NAME}.json",
        log:
            f"logs/{{preset}}/figures/{NAME}.log",
        benchmark:
            f"logs/{{preset}}/figures/{NAME}.tsv"
        threads: 1
        resources:
            mem_mb=600,
            runtime=10,
        params:
            figure=NAME,
            options=figures_step.options(NAME, PARAMS),
            shown=figures.caption_values(NAME, PARAMS),
            source=source("figures"),
        shell:
            "agave figures {params.figure} --preset {wildcards.preset} --results results/{wildcards.preset} > {log} 2>&1"


rule figures:
    input:
        expand(
            "results/{preset}/figures/figure{name}.{ending}",
            preset=PRESET,
            name=figures.NAMES,
            ending=["pdf", "png"],
        ),
