"""The cost of the networks, from their sizes alone: parameters, arithmetic and memory. Pure functions, without torch.

Snakemake sizes its jobs with these numbers before anything runs, and `agave plan` and `agave summary` print them. The lists
of convolutions below repeat what pixelcnn_pp.py and vae_iaf.py build; a test compares them with what torch counts in the real networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from agave.config import Params
from agave.config_networks import VAEModel
from agave.grid import Cell
from agave.planning.layer_costs import LIKELIHOOD_OF_X, Convolution, Numbers
from agave.planning.pixelcnn_pp_costs import feature_stream, gated_blocks, pixelcnn_pp, pixelcnn_pp_values
from agave.planning.table1_costs import COSTS

VALUES_KEPT, LIKELIHOOD_OF_Y = 1.1, 9
"""Numbers that a training step keeps for its backward pass: for each number that a convolution reads (its input, and in places what
that was made from), and for each value of y. With LIKELIHOOD_OF_X they are fitted to the four presets, where they are right within an
eighth. `agave summary` counts what the joint model keeps."""

KEPT_BYTES = {"float32": 4.0, "bfloat16": 2.2}
"""Bytes of such a number by `compute.precision`, as torch keeps them on a CPU. It is more than two in bfloat16, because the
densities of the latent variables and the likelihoods stay float32. An estimate for a GPU."""


def encoder(options: VAEModel, image_size: int) -> Iterator[Convolution]:
    """Yield the convolutions of the VAE's bottom-up pass."""
    h, z, grid = options.hidden, options.latent, image_size // 2
    yield Convolution(3, h, 25, grid**2, image_size**2)
    for level in range(options.depth):
        places = (grid >> level) ** 2
        for block in range(options.blocks):
            halves = level > 0 and block == 0
            yield Convolution(h, 2 * z + 2 * h, 9, places, 4 * places if halves else places)
            yield Convolution(h, h, 9, places, places)


def decoder(options: VAEModel, image_size: int, resolution: int) -> Iterator[Convolution]:
    """Yield the convolutions of the VAE's top-down pass with the flows of the posterior, as in training and evaluation."""
    h, z, grid = options.hidden, options.latent, image_size // 2
    for level in range(options.depth):
        places = (grid >> level) ** 2
        for _ in range(options.blocks):
            for inputs, outputs in ((h, 4 * z + 2 * h), (z, h), (h, h), (h, z), (h, z), (h + z, h)):
                yield Convolution(inputs, outputs, 9, places, places)
    yield Convolution(h, 3, 25, min(grid, resolution) ** 2, grid**2)


def parts(params: Params, cell: Cell) -> dict[str, list[Convolution | Numbers]]:
    """Return the layers of a cell's model by part; a further system of Table 1 has one part, of its name."""
    size = params.prepare.image_size
    if cell.kind in COSTS:
        return {cell.kind: list(COSTS[cell.kind].layers(params))}
    found: dict[str, list[Convolution | Numbers]] = {}
    if cell.has_vae:
        found["encoder"] = list(encoder(params.model.vae, size))
        found["decoder"] = list(decoder(params.model.vae, size, cell.resolution))
    if cell.has_pixelcnn_pp:
        found["PixelCNN++"] = list(pixelcnn_pp(params.model.pixelcnn_pp, size))
    if cell.has_vae and cell.has_pixelcnn_pp:
        found["feature stream"] = list(feature_stream(params.model.pixelcnn_pp, size))
    return found


def parameters(params: Params, cell: Cell) -> dict[str, int]:
    """Count trainable numbers by part: the VAE, the PixelCNN++ and its feature stream, as far as the cell has them."""
    found = {name: sum(layer.parameters for layer in layers) for name, layers in parts(params, cell).items()}
    if cell.has_vae:
        top_and_scales = params.model.vae.hidden + 3
        found = {"VAE": found.pop("encoder") + found.pop("decoder") + top_and_scales} | found
    return found


def multiply_adds(params: Params, cell: Cell) -> dict[str, int]:
    """Count multiply-adds of the convolutions in one forward pass of one image, by part."""
    return {name: sum(layer.multiply_adds for layer in layers) for name, layers in parts(params, cell).items()}


def kept_bytes(params: Params, cell: Cell) -> int:
    """Estimate the memory that a training step keeps for its backward pass, bytes per image, without the weights."""
    reads = sum(layer.inputs * layer.reads for layers in parts(params, cell).values() for layer in layers)
    likelihoods = 0
    if cell.has_vae:
        likelihoods += LIKELIHOOD_OF_Y * 3 * cell.resolution**2
    if cell.has_pixelcnn_pp:
        likelihoods += LIKELIHOOD_OF_X * params.model.pixelcnn_pp.mixtures * params.prepare.image_size**2
    if cell.kind in COSTS:
        likelihoods += COSTS[cell.kind].likelihood(params) + COSTS[cell.kind].kept(params)
    return round(KEPT_BYTES[params.compute.precision] * VALUES_KEPT * reads + 4 * likelihoods)


def working_bytes(params: Params, cell: Cell, *, likelihood: bool = True) -> int:
    """Estimate the peak memory of a forward pass without gradients, bytes per image: in float32, the likelihood of x in float64."""
    size, vae, cnn = params.prepare.image_size, params.model.vae, params.model.pixelcnn_pp
    values = 0
    if cell.has_vae:
        grids = [(size >> level) ** 2 for level in range(1, vae.depth + 1)]
        values += (2 * vae.latent + 2 * vae.hidden) * vae.blocks * sum(grids)  # what the bottom-up pass leaves for the top-down pass
        values += 10 * (vae.hidden + 2 * vae.latent) * grids[0]  # one layer
    if cell.has_pixelcnn_pp:
        values += pixelcnn_pp_values(cnn, size, stream=cell.has_vae)
        values += 2 * 3 * 10 * cnn.mixtures * size**2 if likelihood else 0
    if cell.kind in COSTS:
        cost = COSTS[cell.kind]
        values += cost.values(params)
        values += round(cost.held * cost.likelihood(params)) if likelihood else 0
    return 4 * values


def cache_bytes(params: Params, cell: Cell) -> int:
    """Estimate the memory of the sampler's caches, bytes per image: two rows of the input of every convolution, and all injections."""
    size, cnn = params.prepare.image_size, params.model.pixelcnn_pp
    if not cell.has_pixelcnn_pp:
        return 0
    rows = sum(2 * layer.inputs * math.isqrt(layer.reads) for layer in pixelcnn_pp(cnn, size) if layer.taps > 1)
    injections = sum(2 * 2 * cnn.filters * places for places, _ in gated_blocks(cnn, size)) if cell.has_vae else 0
    return 4 * (rows + injections)
