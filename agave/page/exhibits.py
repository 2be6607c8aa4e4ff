"""The figures of the page: grids of images from the files behind each figure, and curves as they were drawn."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from agave.claims.evidence import short_name
from agave.figures import figure_cells
from agave.grid import Cell
from agave.page.findings import CURVES, at
from agave.page.parts import Exhibit, Images, Panel, Picture, arrays_of, chart, tiles
from agave.results import Results

NOT_SELECTED = "The images are not selected: they are the first of the noise seed."


def figure_1(source: Results) -> list[Exhibit]:
    """Return samples of the VAE alone, PixelCNN++ alone and AGAVE."""
    vae, alone, ours = (_images(source, name, keys) for name, keys in (("1a", ["prior"]), ("1b", ["prior_sample"]), ("1c", BOTH)))
    label = short_name(figure_cells("1c", source.params)[0], source.params)
    pictures = [
        [tiles(vae[0], "Samples of the VAE with inverse autoregressive flow alone", "(a) VAE alone: f(z)")],
        [tiles(alone[0], "Samples of PixelCNN++ alone", "(b) PixelCNN++ alone: x")],
        [tiles(ours[0], f"VAE samples of AGAVE, {label}", "(c) AGAVE: f(z)")],
        [tiles(ours[1], f"PixelCNN samples of AGAVE, {label}, each given the VAE sample in the same place", "(c) AGAVE: x given f(z)")],
    ]
    caption = f"Samples of the two networks alone, and of AGAVE at {label}, whose f(z) conditions x. {NOT_SELECTED}"
    return [Exhibit("Figure 1", caption, [Panel(some) for some in pictures], ["1a", "1b", "1c"])]


BOTH = ["prior", "prior_sample"]


def figure_2(source: Results) -> list[Exhibit]:
    """Return the schematic of the model."""
    alt = "Diagram of the model: the encoder maps the image x to z; the VAE decoder maps z to f(z), from which the auxiliary image y is "
    alt += "reconstructed; the PixelCNN decoder predicts x from its earlier pixels and f(z). The KL is weighted by λ."
    return [chart(source, "2", "Figure 2", "The model, with the sizes of this preset.", alt)]


def systems(source: Results) -> list[Exhibit]:
    """Return our numbers against those of Table 1, and samples of each system."""
    alt = "Chart of our bits per dimension against the published ones, one point for each system; the numbers are in the table above."
    drawn = arrays_of(source, "samples")
    pictures = [
        tiles(images, f"{len(images)} {label}" if label == "test images" else f"Samples of {label}", label)
        for label, images in drawn.items()
    ]
    title = f"Samples of {'all ' if len(drawn) > 12 else ''}{len(drawn) - 1} systems"
    caption = f"Images drawn by each system that this preset trains, and below them test images. {NOT_SELECTED}"
    return [
        chart(source, "table1", "Table 1, drawn", "Our numbers against the published ones.", alt),
        Exhibit(title, caption, [Panel(pictures)], ["samples"]),
    ]


def figure_3(source: Results) -> list[Exhibit]:
    """Return reconstructions and samples by λ."""
    groups = []
    for cell in figure_cells("3a", source.params):
        text = f"λ = {cell.kl_weight:g}"
        given = _images(source, "3a", [f"{cell.name}/reconstruction", f"{cell.name}/reconstruction_sample"])
        free = _images(source, "3b", [f"{cell.name}/prior", f"{cell.name}/prior_sample"])
        pictures = [
            tiles(given[0], f"VAE reconstructions of the test images, {text}", "(a) VAE reconstruction f(z), z from the image"),
            tiles(given[1], f"PixelCNN samples given the VAE reconstructions, {text}", "(a) PixelCNN sample given the reconstruction"),
            tiles(free[0], f"VAE samples, {text}", "(b) VAE sample f(z), z from the prior"),
            tiles(free[1], f"PixelCNN samples given the VAE samples, {text}", "(b) PixelCNN sample given the VAE sample"),
        ]
        groups.append(Panel(pictures, text, _terms(source, cell)))
    caption = "The same test images and the same noise for every λ; not selected."
    return [Exhibit("Figure 3", caption, groups, ["3a", "3b"], "KL weight λ", [_originals(source, "3a")])]


def figure_4(source: Results) -> list[Exhibit]:
    """Return the curves of bits per dimension by λ."""
    alt = "Line charts against λ: bits per dimension of the VAE decoder and the PixelCNN decoder, their reconstruction terms and the KL. "
    alt += "The numbers are in the table below."
    return [chart(source, "4", "Figure 4", "Bits per dimension of both decoders and their terms, one-sample bound.", alt)]


def figure_5(source: Results) -> list[Exhibit]:
    """Return reconstructions by colour levels, and the total by colour levels."""
    groups = []
    for cell in figure_cells("5a", source.params):
        images = _images(source, "5a", [f"{cell.name}/reconstruction"])[0]
        total = at(source, "5b", cell, "pixelcnn_bits_per_dim")
        text = f"{cell.levels} levels"
        picture = tiles(images, f"VAE reconstructions of the test images, {text}", "VAE reconstruction f(z)")
        groups.append(Panel([picture], text, f"total of the PixelCNN decoder {total:.3f} bits/dim"))
    weight = figure_cells("5a", source.params)[0].kl_weight
    alt = "Chart of bits per dimension of the PixelCNN decoder against the number of colour levels; the numbers are in the table below."
    caption = f"Levels: values that a colour channel of the auxiliary image can take; λ = {weight:g}. The same images and noise for all."
    return [
        Exhibit("Figure 5a", caption, groups, ["5a"], "Colour levels", [_originals(source, "5a")]),
        chart(source, "5b", "Figure 5b", f"Total of the PixelCNN decoder by colour levels, λ = {weight:g}, one-sample bound.", alt),
    ]


def figure_6(source: Results) -> list[Exhibit]:
    """Return samples by kind of auxiliary image."""
    groups, size = [], source.params.prepare.image_size
    for letter, cell in zip("abcdefghijklmnopqrstuvwxyz", figure_cells("6", source.params), strict=False):
        text = f"({letter}) {cell.resolution}×{cell.resolution} pixels, {cell.levels} levels, λ = {cell.kl_weight:g}"
        means, samples = _images(source, "6", [f"{cell.name}/prior", f"{cell.name}/prior_sample"])
        pictures = [
            tiles(means, f"VAE samples, auxiliary image of {text[4:]}", "VAE sample f(z), enlarged", size),
            tiles(samples, f"PixelCNN samples given the VAE samples, auxiliary image of {text[4:]}", "PixelCNN sample given f(z)"),
        ]
        groups.append(Panel(pictures, text))
    return [Exhibit("Figure 6", f"Samples by auxiliary image. {NOT_SELECTED}", groups, ["6"])]


def growth(source: Results) -> list[Exhibit]:
    """Return the growth of the importance-sampled bound."""
    alt = "Line chart of how much the bound improves with the number of importance samples, for each model; see the table below."
    return [chart(source, "growth", "Importance sampling", "How the bound tightens with the number of samples.", alt)]


def codec(source: Results) -> list[Exhibit]:
    """Return the sizes of compressed files."""
    alt = "Chart of bits per dimension: real files of models beside the reported likelihoods, and image formats; see the table below."
    return [chart(source, "codec", "Compressed files", "Files that were decompressed and compared pixel by pixel, without the model.", alt)]


def bits(source: Results) -> list[Exhibit]:
    """Return the maps of bits per pixel."""
    alt = "Maps of the first test images and of their mean: bits of each pixel under PixelCNN++ alone, under AGAVE, and the difference. "
    alt += "Edges and texture cost most bits."
    caption = "Bits of each pixel under both models, and their difference; the KL has no place on the image and is not shown."
    return [chart(source, "bits", "Maps of bits", caption, alt)]


def beyond(source: Results) -> list[Exhibit]:
    """Return completions and training curves, which the paper does not show."""
    cell, alone = figure_cells("completions", source.params)
    weight, rows = short_name(cell, source.params), source.params.sample.completion_rows
    shown = {
        "original": ("Original", "Test images"),
        "given": (f"Given: the first {rows} rows", f"Test images of which only the first {rows} rows are left"),
        f"{alone.name}/completion": ("PixelCNN++ alone", "Completions of PixelCNN++ alone"),
        "f(z)": ("f(z) of the whole original", "VAE reconstructions of the whole test images"),
        f"{cell.name}/completion": (f"AGAVE, {weight}", f"Completions of AGAVE, {weight}"),
    }
    images = _images(source, "completions", shown)
    pictures = [tiles(one, alt, label) for one, (label, alt) in zip(images, shown.values(), strict=True)]
    caption = f"The first {rows} rows are given, the others are drawn. AGAVE also sees f(z) of the original. Not selected."
    alt = "Line charts of the training objective in bits per dimension against the training step, one line for each training."
    return [
        Exhibit("Completions", caption, [Panel(pictures)], ["completions"]),
        chart(source, "training", "Training curves", "All trainings of this preset; each point is a mean over training batches.", alt),
    ]


def _images(source: Results, name: str, keys: Iterable[str]) -> list[Images]:
    arrays = arrays_of(source, name)
    for key in keys:
        if key not in arrays:
            raise source.wrong(f"figures/figure{name}.npz", f"lacks the array {key}")
    return [arrays[key] for key in keys]


def _originals(source: Results, name: str) -> Picture:
    originals = np.ascontiguousarray(_images(source, name, ["original"])[0])
    return tiles(originals, f"The {len(originals)} test images that are reconstructed", "Test images")


def _terms(source: Results, cell: Cell) -> str:
    found = {label: at(source, "4", cell, quantity) for quantity, label in CURVES.items()}
    return " · ".join(f"{label} {value:.3f}" for label, value in found.items()) + " bits/dim"
