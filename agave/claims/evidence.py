"""What the claims are decided by: per-image results of a preset, measured in one place, and properties of the networks themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agave.claims import measures
from agave.data.arrays import read_array_file
from agave.errors import UserError
from agave.grid import Cell
from agave.likelihoods import bits_per_dim
from agave.results import BOUNDS, Results, iwae_arrays_path, per_image_path
from agave.tables import PUBLISHED_DATA_SET, PUBLISHED_IMAGES

Values = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


def _only(means: Values) -> Values:
    first: Values = means[..., 0]
    return first


@dataclass(frozen=True)
class Measured:
    """Measurements of C cells.

    Attributes:
        samples: (seeds, images, C, k): k numbers for each image of each seed.
        reduce: means over seeds and images (..., C, k) -> what is compared (..., C).
        basis: on how much it rests, in words.
        labels: of what was measured where that is no cell.
    """

    samples: Values
    reduce: Callable[[Values], Values]
    basis: str
    labels: tuple[str, ...] = ()


class Evidence:
    """The results of one preset, as measurements.

    Args:
        results: where they lie.
    """

    def __init__(self, results: Results) -> None:
        self.results, self.params = results, results.params
        self.dimensions = 3 * self.params.prepare.image_size**2

    @property
    def published(self) -> bool:
        """Whether networks of the published size were measured on the published test images."""
        row = self.results.rows(BOUNDS, ("data_set", "images"))[0]
        sizes = self.params.model
        full = (
            sizes.vae.blocks * sizes.vae.depth == 20
            and sizes.vae.hidden == 160
            and sizes.pixelcnn_pp.filters == 160
            and sizes.pixelcnn_pp.resnets == 5
        )
        return full and row["data_set"] == PUBLISHED_DATA_SET and row["images"] == str(PUBLISHED_IMAGES)

    def measure(self, name: str, chosen: Sequence[Cell]) -> Measured:
        """Take a measurement of MEASURES.

        Args:
            name: of it.
            chosen: the cells; none for a property of the networks.

        Raises:
            UserError: a result is missing, damaged or of other images than those of the other cells.
        """
        return MEASURES[name](self, chosen)

    @cache  # noqa: B019  # an Evidence lives as long as one command
    def terms(self, cell: Cell) -> Arrays:
        """Terms of the one-sample bound, (seeds, images), nats."""
        return self._by_seed(cell, per_image_path)

    @cache  # noqa: B019
    def importance(self, cell: Cell) -> Arrays:
        """Importance-sampled bounds, (seeds, images) or (seeds, images, numbers of samples), nats."""
        return self._by_seed(cell, iwae_arrays_path)

    @cache  # noqa: B019
    def images(self, cell: Cell, *keys: str) -> dict[str, measures.Images]:
        """Images that were drawn for a cell, first seed."""
        return self.results.images(cell, list(keys))

    def _by_seed(self, cell: Cell, path_of: Callable[[Cell, int], str]) -> Arrays:
        found = [read_array_file(self.results.folder / path_of(cell, seed)) for seed in self.params.grid.seeds]
        names = [name for name in found[0] if name != "samples"]
        for one, seed in zip(found, self.params.grid.seeds, strict=True):
            if set(one) != set(found[0]) or any(one[name].shape != found[0][name].shape for name in names):
                raise self.results.wrong(path_of(cell, seed), "has other arrays than the first seed")
        return {name: np.stack([one[name] for one in found]) for name in names}

    def together(self, values: Sequence[Values], reduce: Callable[[Values], Values] = _only) -> Measured:
        """Measurements of several cells, each (seeds, images) or (seeds, images, k), side by side."""
        shaped = [one if one.ndim == 3 else one[..., None] for one in values]
        if len({one.shape for one in shaped}) > 1:
            raise UserError(f"{self.results.folder}: cells with different numbers of images or seeds; evaluate and sample them anew")
        seeds, images = shaped[0].shape[:2]
        basis = f"{images} images, " + (f"{seeds} seeds" if seeds > 1 else "1 seed: without the noise of training")
        return Measured(np.stack(shaped, axis=2), reduce, basis)


Measure = Callable[[Evidence, Sequence[Cell]], Measured]


def _bound(name: str) -> Measure:
    """A term of the one-sample bound, bits/dim of x; of y for the VAE decoder's total."""

    def one(evidence: Evidence, cell: Cell) -> Values:
        terms, dimensions = evidence.terms(cell), evidence.dimensions
        if name == "kl":
            return bits_per_dim(terms["kl"], dimensions)
        reconstruction = -terms["log_prob_y" if name.startswith("vae") else "log_prob_x"]
        if name.endswith("reconstruction"):
            return bits_per_dim(reconstruction, dimensions)
        return bits_per_dim(terms["kl"] + reconstruction, 3 * cell.resolution**2 if name.startswith("vae") else dimensions)

    return lambda evidence, chosen: evidence.together([one(evidence, cell) for cell in chosen])


def _iwae(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
    """The importance-sampled bound, or the exact likelihood of a model without latent variables, bits/dim on the same images."""
    bounds = [-evidence.importance(cell)["iwae"] if cell.has_vae else -evidence.terms(cell)["log_prob_x"] for cell in chosen]
    images = min(bound.shape[1] for bound in bounds)  # those of the importance-sampled bounds are the first of all
    return evidence.together([bits_per_dim(bound[:, :images], evidence.dimensions) for bound in bounds])


def _iwae_gain(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
    """How much the bound with all samples lies below that with the first one, bits/dim."""
    growth = [evidence.importance(cell)["growth"] for cell in chosen]
    return evidence.together([bits_per_dim(one[..., -1] - one[..., 0], evidence.dimensions) for one in growth])


def _identity(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
    """By how much the totals in tables/bounds.csv miss the sum of their terms, bits/dim: the larger of both decoders."""
    found = []
    for cell in chosen:
        ratio = (evidence.params.prepare.image_size / cell.resolution) ** 2
        errors = [0.0]
        for row in evidence.results.bounds(cell):
            kl, y, x, total_y, total_x = (
                evidence.results.number(BOUNDS, row, name)
                for name in ("kl", "vae_reconstruction", "pixelcnn_reconstruction", "vae_bits_per_dim", "pixelcnn_bits_per_dim")
            )
            errors += [total_x - kl - x, total_y - ratio * (kl + y)]
        found.append(np.full((1, 1), max(errors, key=abs)))
    return Measured(np.stack(found, axis=2)[..., None], _only, "all seeds, not sampled")


def _of_images(keys: Sequence[str], function: Callable[..., Values], reduce: Callable[[Values], Values] = _only) -> Measure:
    """A function of a cell's drawn images: (N, ...) arrays -> (N,) or (N, k)."""

    def measure(evidence: Evidence, chosen: Sequence[Cell]) -> Measured:
        shown = [evidence.images(cell, *keys) for cell in chosen]
        return evidence.together([function(*(one[key] for key in keys))[None] for one in shown], reduce)

    return measure


def _log_detail(images: measures.Images) -> Values:
    return np.log10(measures.detail_power(images) + 1e-3)


def _spectra(first: measures.Images, second: measures.Images) -> Values:
    return np.concatenate([measures.log_spectrum(first), measures.log_spectrum(second)], axis=1)


def _distance(means: Values, lowest: int | None = None) -> Values:
    """Mean absolute difference of the two mean log-spectra, at the lowest so many frequencies or all."""
    first, second = np.split(means, 2, axis=-1)
    distance: Values = np.abs(first - second)[..., :lowest].mean(-1)
    return distance


def _own_minus_other(sample: measures.Images, features: measures.Images) -> Values:
    shape, own = measures.low_passed(sample), measures.low_passed(features)
    return measures.correlation(shape, own) - measures.correlation(shape, np.roll(own, 1, axis=0))


def _shape_minus_detail_kept(reconstruction: measures.Images, original: measures.Images) -> Values:
    shape = measures.correlation(measures.low_passed(reconstruction), measures.low_passed(original))
    return shape - measures.correlation(measures.detail(reconstruction), measures.detail(original))


def _property(name: str) -> Measure:
    """A property of the networks, from `agave.checks`."""

    def measure(evidence: Evidence, _: Sequence[Cell]) -> Measured:
        from agave.claims import network_properties

        found = network_properties.CHECKS[name](evidence.params)
        return Measured(np.array([[list(found.values())]])[..., None], _only, "computed, not sampled", tuple(found))

    return measure


MEASURES: dict[str, Measure] = {
    **{name: _bound(name) for name in ("kl", "vae_reconstruction", "pixelcnn_reconstruction", "vae_bits_per_dim", "pixelcnn_bits_per_dim")},
    "iwae": _iwae,
    "iwae_gain": _iwae_gain,
    "identity": _identity,
    "reconstruction_psnr": _of_images(["reconstruction", "original"], measures.psnr),
    "reconstruction_detail": _of_images(["reconstruction"], _log_detail),
    "shape_minus_detail_kept": _of_images(["reconstruction", "original"], _shape_minus_detail_kept),
    "prior_detail": _of_images(["prior"], _log_detail),
    "prior_detail_of_data": _of_images(["prior", "original"], lambda prior, data: _log_detail(prior) - _log_detail(data)),
    "draw_detail_of_data": _of_images(["prior_draw", "original"], lambda drawn, data: _log_detail(drawn) - _log_detail(data)),
    "reconstruction_prior_distance": _of_images(["reconstruction", "prior"], _spectra, _distance),
    "own_minus_other": _of_images(["reconstruction_sample", "reconstruction"], _own_minus_other),
    "reconstruction_change": _of_images(["reconstruction_sample", "reconstruction"], measures.rms_difference),
    "detail_added": _of_images(
        ["reconstruction_sample", "reconstruction"], lambda sample, features: _log_detail(sample) - _log_detail(features)
    ),
    "sample_distance": _of_images(["prior_sample", "original"], _spectra, _distance),
    "coarse_sample_distance": _of_images(["prior_sample", "original"], _spectra, lambda means: _distance(means, 4)),
    **{
        name: _property(name)
        for name in ("future_pixels", "future_features", "objective_identities", "objective_beyond_2", "dependent_values")
    },
}
