"""The evidence for the claims: results of a preset, measured for each image, and properties of the networks themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from agave import energy, grid, measures, published
from agave.bootstrap import crossed_bootstrap
from agave.config import Params
from agave.errors import UserError
from agave.grid import Cell
from agave.results import BOUNDS, Results, iwae_arrays_path, measures_path, per_image_path
from agave.schemas import BOUND_SCHEMA
from agave.statistics import rank_correlation
from agave.units import bits_per_dim

Values = NDArray[np.float64]
Arrays = Mapping[str, Values]
Compared = tuple[Values, list[tuple[Values, Values]], Values]

LOWEST = 4
"""Number of the lowest frequencies of a spectrum that coarse_sample_distance compares."""


class NotTestableError(Exception):
    """Raised when a preset lacks what a claim needs; the message says what."""


def _only(means: Values) -> Values:
    first: Values = means[..., 0]
    return first


@dataclass(frozen=True)
class Measured:
    """Measurements of C cells.

    Attributes:
        samples: (seeds, images, C, k): k numbers for each image of each seed.
        reduce: function from means over seeds and images (..., C, k) to what is compared (..., C).
        basis: number of images and seeds, in words.
        labels: names of what was measured, where these are not cells.
    """

    samples: Values
    reduce: Callable[[Values], Values]
    basis: str
    labels: tuple[str, ...] = ()

    def compare(self, matrix: Values, confidence: Sequence[float]) -> Compared:
        """Compute linear functions of what was measured, with intervals by the bootstrap.

        Args:
            matrix: (comparisons, C).
            confidence: confidence level of each interval.

        Returns:
            The values (comparisons,), the lower and upper ends for each confidence, and the sum of the magnitudes that each comparison
            adds or subtracts (comparisons,).
        """
        value, ends = crossed_bootstrap(self.samples, lambda means: self.reduce(means) @ matrix.T, confidence)
        return value, ends, np.abs(self.reduce(self.samples.mean((0, 1)))) @ np.abs(matrix).T


@dataclass(frozen=True)
class Apart:
    """How far samples of C cells are apart from the test images: the energy coefficient of each cell.

    Attributes:
        found: distances within and between the samples of each cell and the test images.
        basis: number of images and seeds, in words.
        labels: always empty: what was measured are cells.
    """

    found: tuple[energy.Distances, ...]
    basis: str
    labels: tuple[str, ...] = ()

    def compare(self, matrix: Values, confidence: Sequence[float]) -> Compared:
        """Compute linear functions of the coefficients; arguments and result are those of `Measured.compare`."""
        value, ends = energy.energy_bootstrap(self.found, lambda coefficients: coefficients @ matrix.T, confidence)
        return value, ends, np.abs(matrix).sum(1)


class Evidence:
    """The results of one preset, as measurements.

    Args:
        results: the results of the preset.
    """

    def __init__(self, results: Results) -> None:
        self.results, self.params = results, results.params
        self.dimensions = 3 * self.params.prepare.image_size**2

    @property
    def published(self) -> bool:
        """Return whether networks of the published size were measured on the published test images."""
        row = self.results.table(BOUNDS, BOUND_SCHEMA).iloc[0]
        return not published.not_as_published(self.params) and row["data_set"] == published.DATA_SET and row["images"] == published.IMAGES

    def measure(self, name: str, chosen: Sequence[Cell]) -> Measured | Apart:
        """Take a measurement.

        Args:
            name: name of the measurement, one of `MEASURES`.
            chosen: the cells; none for a property of the networks.

        Raises:
            UserError: a result is missing, damaged or of other images than those of the other cells.
            NotTestableError: the preset has too little for it.
        """
        return MEASURES[name](self, chosen)

    @cache  # noqa: B019  # an Evidence lives as long as one command
    def terms(self, cell: Cell) -> Arrays:
        """Read the terms of the one-sample bound, (seeds, images), nats."""
        return self.results.per_image(cell, per_image_path)

    @cache  # noqa: B019
    def measures(self, cell: Cell) -> Arrays:
        """Read the measures of the images that were drawn for a cell, (seeds, images) or (seeds, images, k)."""
        return self.results.per_image(cell, measures_path)

    def measures_of(self, cell: Cell, name: str) -> Values:
        """Return one of the measures of a cell, or of the test images: (seeds, images) or (seeds, images, k).

        Raises:
            UserError: the results of the cell lack the measure.
        """
        alone = grid.baselines(self.params)[1]
        found = self.measures(alone if name in measures.OF_TEST_IMAGES else cell)
        if name not in found:
            raise self.results.wrong(measures_path(cell, self.params.grid.seeds[0]), f"lacks {name}, which the claims need")
        return found[name]

    def basis(self, seeds: int, images: int) -> str:
        """Return the number of images and seeds in words.

        Raises:
            NotTestableError: there is one image and one seed, so nothing to draw an interval from.
        """
        if seeds * images == 1:
            raise NotTestableError("one image and one seed: nothing to draw an interval from")
        return f"{images} images, " + (f"{seeds} seeds" if seeds > 1 else "1 seed: without the noise of training")

    def together(self, values: Sequence[Values], reduce: Callable[[Values], Values] = _only) -> Measured:
        """Put measurements of several cells, each (seeds, images) or (seeds, images, k), side by side.

        Raises:
            UserError: they are of different numbers of images or seeds.
            NotTestableError: there is one image and one seed, so nothing to draw an interval from.
        """
        shaped = [np.asarray(one if one.ndim == 3 else one[..., None], np.float64) for one in values]
        if len({one.shape for one in shaped}) > 1:
            raise UserError(f"{self.results.folder}: cells with different numbers of images or seeds; evaluate and sample them again")
        return Measured(np.stack(shaped, axis=2), reduce, self.basis(*shaped[0].shape[:2]))

    def apart(self, chosen: Sequence[Cell]) -> Apart:
        """Compare the samples of cells with the test images by their energy distance.

        Raises:
            UserError: a result is missing or damaged, or cells have different numbers of images or seeds.
            NotTestableError: there is one image and one seed.
        """
        test = self.measures_of(chosen[0], "coarse_original")[0]  # the same for all seeds
        drawn = [self.measures_of(cell, "coarse_prior_sample") for cell in chosen]
        if len({one.shape for one in drawn}) > 1:
            raise UserError(f"{self.results.folder}: cells with different numbers of images or seeds; sample them again")
        points = measures.standardised(test, test)
        found = [energy.distances(measures.standardised(one, test), points) for one in drawn]
        return Apart(tuple(found), self.basis(*drawn[0].shape[:2]))


Measure = Callable[[Evidence, Sequence[Cell]], Measured | Apart]


def _bound(name: str) -> Measure:
    """Return the measure of a term of the one-sample bound, bits/dim of x; of y for the VAE decoder's total."""
    network = "log_prob_y" if name.startswith("vae") else "log_prob_x"

    def one(evidence: Evidence, cell: Cell) -> Values:
        terms, dimensions = evidence.terms(cell), evidence.dimensions
        if name == "kl":
            return bits_per_dim(terms["kl"], dimensions)
        if network not in terms:
            raise UserError(f"claims.yaml: measure {name} of the model {cell.name}, which has no such network; accepted: another model")
        if name.endswith("reconstruction"):
            return bits_per_dim(-terms[network], dimensions)
        return bits_per_dim(terms["kl"] - terms[network], 3 * cell.resolution**2 if network == "log_prob_y" else dimensions)

    return lambda evidence, chosen: evidence.together([one(evidence, cell) for cell in chosen])


def _has_importance(evidence: Evidence, chosen: Sequence[Cell]) -> None:
    """Raise NotTestableError for a model whose importance-sampled bound the workflow does not compute."""
    for cell in chosen:
        if cell.has_samples and cell not in grid.sampled_cells(evidence.params):
            raise NotTestableError(f"the importance-sampled bound of {cell.name}, which is not in Table 1 of this preset, is not computed")


def _iwae(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
    """Measure the importance-sampled bound, or the exact likelihood of a model without latent variables, bits/dim on the same images."""
    _has_importance(evidence, chosen)
    bits = evidence.results.bits_on_the_same_images(chosen)
    return evidence.together([bits[..., index] for index in range(len(chosen))])


def _iwae_gain(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
    """Measure how much the bound with all samples lies below that with the first one, bits/dim."""
    _has_importance(evidence, chosen)
    growth = [evidence.results.per_image(cell, iwae_arrays_path)["growth"] for cell in chosen]
    return evidence.together([bits_per_dim(one[..., -1] - one[..., 0], evidence.dimensions) for one in growth])


def short_name(cell: Cell, params: Params) -> str:
    """Return the name of a cell in comparisons."""
    if cell.kind != "agave":
        return {"vae": "VAE", "pixelcnn_pp": "PixelCNN++"}.get(cell.kind) or published.NAMES.get(cell.system, cell.kind)
    parts = [f"λ {cell.kl_weight:g}"]
    parts += [f"{cell.levels} levels"] * (cell.levels != 256)
    parts += [f"{cell.resolution}×{cell.resolution}"] * (cell.resolution != params.prepare.image_size)
    return ", ".join(parts + ["no auxiliary loss"] * (not cell.auxiliary))


def _codec_bits_minus_bound(evidence: Evidence, _: Sequence[Cell]) -> Measured:
    """Measure how many bits/dim an image that is coded by the model takes beyond its bound, for each model that compresses images."""
    chosen = grid.codec_cells(evidence.params)
    if not chosen:
        raise NotTestableError("codec.cells of this preset names no model")
    lengths = [evidence.results.code_lengths(cell) for cell in chosen]
    excess = [(one["bits"] - one["bound_bits"]) / evidence.dimensions for one in lengths]
    pairs = [np.stack([bits, np.ones_like(bits)], 1) * one["by_model"][:, None] for bits, one in zip(excess, lengths, strict=True)]
    if any(not one["by_model"].any() for one in lengths):
        raise NotTestableError("so few images are compressed that one model codes none with its latent variables")
    found = evidence.together([pair[None] for pair in pairs], lambda means: means[..., 0] / means[..., 1])
    return replace(found, labels=tuple(short_name(cell, evidence.params) for cell in chosen))


def _order_of_table_1(evidence: Evidence, _: Sequence[Cell]) -> Measured:
    """Measure the rank correlation of our numbers with those of Table 1 of the paper."""
    cells = grid.table_1_cells(evidence.params)
    if missing := [row.model for row in published.TABLE_1 if row.system not in cells]:
        raise NotTestableError(f"this preset trains no {missing[0]}" + (f", nor {len(missing) - 1} more rows" if missing[1:] else ""))
    numbers = [float(row.bits_per_dim) for row in published.TABLE_1]
    bits = evidence.results.bits_on_the_same_images([cells[row.system] for row in published.TABLE_1])
    found = evidence.together([bits], lambda means: rank_correlation(means, numbers))
    return replace(found, labels=("rank correlation",))


def _identity(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
    """Measure how far totals in tables/bounds.csv differ from the sums of their terms, bits/dim: the largest over decoders and seeds."""
    table = evidence.results.bounds_of(chosen)
    ratio = (evidence.params.prepare.image_size / table["resolution"].astype("float64")) ** 2
    of_x = table["pixelcnn_bits_per_dim"] - table["kl"] - table["pixelcnn_reconstruction"]
    of_y = table["vae_bits_per_dim"] - ratio * (table["kl"] + table["vae_reconstruction"])
    errors = np.stack([of_x, of_y], axis=1).reshape(len(chosen), -1)  # (cells, seeds x decoders)
    largest = errors[np.arange(len(chosen)), np.abs(errors).argmax(1)]
    return Measured(largest[None, None, :, None], _only, "all seeds, not sampled")


def _of_images(*names: str, reduce: Callable[[Values], Values] = _only) -> Measure:
    """Return the measure that images of a cell were given when they were drawn, or several side by side, with what is made of the means."""

    def measure(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
        found = [[evidence.measures_of(cell, name) for name in names] for cell in chosen]
        return evidence.together([some[0] if len(some) == 1 else np.concatenate(some, axis=-1) for some in found], reduce)

    return measure


def _distance(means: Values, lowest: int | None = None) -> Values:
    """Return the mean absolute difference of the two mean log-spectra, over all frequencies or the `lowest` ones."""
    first, second = np.split(means, 2, axis=-1)
    distance: Values = np.abs(first - second)[..., :lowest].mean(-1)
    return distance


def _property(name: str) -> Measure:
    """Return the measure of a property of the networks; torch is imported only when it is taken."""

    def measure(evidence: Evidence, _: Sequence[Cell]) -> Measured:
        from agave.claims import network_properties

        found = network_properties.CHECKS[name](evidence.params)
        return Measured(np.array([[list(found.values())]])[..., None], _only, "computed, not sampled", tuple(found))

    return measure


PROPERTIES = ("future_pixels", "future_features", "objective_identities", "objective_beyond_2", "dependent_values")
"""The measures of `network_properties`, which are of no model of the grid."""

WITHOUT_MODELS = (*PROPERTIES, "order_of_table_1", "codec_bits_minus_bound")
"""The measures for which a test names no models."""

MEASURES: dict[str, Measure] = {
    **{name: _bound(name) for name in ("kl", "vae_reconstruction", "pixelcnn_reconstruction", "vae_bits_per_dim", "pixelcnn_bits_per_dim")},
    "iwae": _iwae,
    "iwae_gain": _iwae_gain,
    "identity": _identity,
    "order_of_table_1": _order_of_table_1,
    "codec_bits_minus_bound": _codec_bits_minus_bound,
    **{name: _of_images(name) for name in measures.PER_IMAGE if not name.startswith(("spectrum", "coarse"))},
    "reconstruction_prior_distance": _of_images("spectrum_of_reconstruction", "spectrum_of_prior", reduce=_distance),
    "sample_distance": _of_images("spectrum_of_prior_sample", "spectrum_of_original", reduce=_distance),
    "coarse_sample_distance": _of_images("spectrum_of_prior_sample", "spectrum_of_original", reduce=lambda means: _distance(means, LOWEST)),
    "sample_energy": lambda evidence, chosen: evidence.apart(chosen),
    **{name: _property(name) for name in PROPERTIES},
}
