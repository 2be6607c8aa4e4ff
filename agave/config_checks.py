"""Checks of several parameters together: what a step of the workflow cannot use is refused before the first step runs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agave.config_schema import plain
from agave.presets import ConfigError

if TYPE_CHECKING:
    from agave.config import Grid, Params, Photos, Prepare, Training

CIFAR10_TRAIN, CIFAR10_TEST = 50_000, 10_000  # images
SQUARE = 4  # pixels: the claims average images over squares of this side


def test_images(prepare: Prepare) -> int | None:
    """Return the number of test images, as far as the parameters say; None: the user's images decide."""
    if prepare.source == "photos":
        return prepare.photos.test_crops
    if prepare.source == "images":
        return prepare.test_images
    return prepare.test_images or (CIFAR10_TRAIN // 6 if prepare.test_from_train else CIFAR10_TEST)


def train_images(prepare: Prepare) -> int | None:
    """Return the number of training images, as far as the parameters say; None: the user's images decide."""
    if prepare.source == "photos":
        return prepare.photos.train_crops
    if prepare.source == "images":
        return prepare.train_images
    held_out = (test_images(prepare) or 0) if prepare.test_from_train else 0
    return prepare.train_images or CIFAR10_TRAIN - held_out


def check_counts(params: Params, train_images: int | None, test_images: int | None) -> None:
    """Refuse numbers of images that are larger than what there is.

    Args:
        params: parameters of the preset.
        train_images: number of training images; None: not known yet.
        test_images: number of test images; None: not known yet.

    Raises:
        ConfigError: a step needs more images than there are.
    """
    if test_images is not None and test_images < 2:
        raise ConfigError(f"test images: {test_images}; accepted: at least 2, which an interval needs")
    wanted = [
        ("sample.images", params.sample.images, test_images, "test"),
        ("evaluate.iwae_images", params.evaluate.iwae_images, test_images, "test"),
        ("pretrain.vae.init_images", params.pretrain.vae.init_images, train_images, "training"),
        ("pretrain.pixelcnn_pp.init_images", params.pretrain.pixelcnn_pp.init_images, train_images, "training"),
        ("joint.init_images", params.joint.init_images, train_images, "training"),
        ("table1.training.init_images", params.table1.training.init_images if params.table1.systems else None, train_images, "training"),
    ]
    for name, count, available, kind in wanted:
        if available is not None and count is not None and count > available:
            raise ConfigError(f"{name} {count} is more than there are {kind} images; accepted: at most {available}")


def check_crops(photos: Photos) -> None:
    """Check that the smallest crop is not larger than the largest.

    Raises:
        ValueError: they do not.
    """
    if photos.smallest_crop > photos.largest_crop:
        raise ValueError(
            f"smallest_crop {photos.smallest_crop} is larger than largest_crop {photos.largest_crop}; "
            "accepted: smallest_crop <= largest_crop"
        )


def check_schedule(training: Training) -> None:
    """Check that warm-up and cool-down fit into the steps of a training.

    Raises:
        ValueError: they do not.
    """
    if training.warmup_steps + training.cooldown_steps > training.steps:
        raise ValueError(
            f"warmup_steps {training.warmup_steps} + cooldown_steps {training.cooldown_steps} exceed steps {training.steps}; "
            "accepted: a sum of at most steps"
        )


def check_systems(systems: Sequence[str]) -> None:
    """Refuse names of further systems that are not registered, that the grid trains anyway, or that come twice.

    Raises:
        ValueError: one of them is not accepted.
    """
    if not systems:
        return
    from agave.models import OF_THE_PAPER, REGISTRY  # no step that knows no model depends on it

    accepted = [name for name in REGISTRY if name not in OF_THE_PAPER]
    for name in systems:
        if name not in accepted:
            raise ValueError(f"systems {name}; accepted: {', '.join(accepted) or 'none, no further system is registered'}")
    check_distinct("systems", systems)


def check_distinct(name: str, values: Sequence[str]) -> None:
    """Refuse a list that names something twice.

    Raises:
        ValueError: it does.
    """
    if len(set(values)) < len(values):
        raise ValueError(f"{name} {plain(list(values))} names one twice; accepted: distinct names")


def whitening_bytes(image_size: int) -> int:
    """Return the memory that fitting the whitening of NICE takes: five matrices of D x D numbers in float64, D = 3 H W."""
    return 5 * 8 * (3 * image_size**2) ** 2


def check_whitening(image_size: int) -> None:
    """Refuse images whose whitening (NICE) does not fit into the memory of this machine.

    Raises:
        ConfigError: it does not.
    """
    needed, there = whitening_bytes(image_size), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        largest = math.isqrt(math.isqrt(there // 40) // 3)
        raise ConfigError(
            f"prepare.image_size {image_size}: the whitening of nice takes {needed / 2**30:.3g} GiB of memory, and this machine has "
            f"{there / 2**30:.3g}; accepted here: at most {largest - largest % SQUARE} pixels, or table1.systems without nice"
        )


def check_grid(grid: Grid) -> None:
    """Refuse a grid that names no model, or one twice.

    Raises:
        ConfigError: the message names the parameter, its value and what is accepted.
    """
    for levels in grid.levels:
        if levels < 2 or 256 % levels:
            raise ConfigError(f"levels {levels} does not divide 256; accepted: 2, 4, 8, 16, 32, 64, 128, 256")
    weights = [("kl_weights", weight) for weight in grid.kl_weights] + [("levels_kl_weight", grid.levels_kl_weight)]
    weights += [("resolutions", cell.kl_weight) for cell in grid.resolutions]
    for name, weight in [*weights, ("without_auxiliary_kl_weight", grid.without_auxiliary_kl_weight or 0.0)]:
        if weight != round(weight, 6):
            raise ConfigError(f"{name}: KL weight {weight!r}; accepted: at most six decimals")
    for name in ("kl_weights", "levels", "seeds", "resolutions"):
        values = getattr(grid, name)
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} {plain(values)} names a value twice; accepted: distinct values")
    if grid.table_kl_weight not in grid.kl_weights:
        raise ConfigError(f"table_kl_weight {grid.table_kl_weight:g} is not in kl_weights; accepted: one of {plain(grid.kl_weights)}")


def check_combinations(params: Params) -> None:
    """Refuse parameters of different blocks that do not fit together.

    Raises:
        ConfigError: the message names the parameter, its value and what is accepted.
    """
    _check_source(params)
    _check_sizes(params)
    _check_window_decoded(params)
    _check_further_trainings(params)
    check_counts(params, params.train_images, params.test_images)
    vae, pieces = params.model.vae, params.compute.images_per_pass
    batch = max(params.pretrain.vae.batch, params.joint.batch)
    if vae.free_bits > 0 and pieces is not None and pieces < batch:
        raise ConfigError(
            f"model.vae.free_bits {vae.free_bits:g} needs the mean over the whole batch, which compute.images_per_pass {pieces} divides; "
            f"accepted: free_bits 0, or images_per_pass null or at least {batch}"
        )


def _check_sizes(params: Params) -> None:
    size = params.prepare.image_size
    needs = [
        ("model.pixelcnn_pp.resolutions needs", 2 ** (params.model.pixelcnn_pp.resolutions - 1)),
        ("model.vae.depth needs", 2**params.model.vae.depth),
        (f"the claims need (squares of {SQUARE} pixels)", SQUARE),
    ]
    if "real_nvp" in params.table1.systems:
        needs.append(("table1.real_nvp.scales needs", 2**params.table1.real_nvp.scales))
    if "nice" in params.table1.systems:
        check_whitening(size)
    for name, divisor in needs:
        if size % divisor:
            raise ConfigError(f"prepare.image_size {size} is not divisible by {divisor}, which {name}; accepted: multiples of {divisor}")
    if params.sample.completion_rows >= size:
        raise ConfigError(f"sample.completion_rows {params.sample.completion_rows}; accepted: 1 to {size - 1}, below image_size")
    accepted = [size // 2, size // 4]
    for cell in params.grid.resolutions:
        if cell.resolution not in accepted:
            raise ConfigError(
                f"grid.resolutions: resolution {cell.resolution} is neither a half nor a quarter of prepare.image_size {size}; "
                f"accepted: {accepted[0]}, {accepted[1]}"
            )


def _check_further_trainings(params: Params) -> None:
    """Refuse a schedule that does not fit into the steps that a further system makes of its batch."""
    from agave.grid import further_cells, training_of  # a module that needs this one

    for cell in further_cells(params):
        try:
            check_schedule(training_of(cell, params))
        except ValueError as error:
            raise ConfigError(f"table1.{cell.kind}: with its batch, table1.training has {error}") from None


def _check_window_decoded(params: Params) -> None:
    """Refuse what the systems lossy_vae and matnet cannot be trained with."""
    table1, size, pieces = params.table1, params.prepare.image_size, params.compute.images_per_pass
    for system, divisor in (("lossy_vae", 4), ("matnet", table1.matnet.divisor)):
        if system in table1.systems and size % divisor:
            raise ConfigError(
                f"prepare.image_size {size} is not divisible by {divisor}, which table1.{system} needs; accepted: multiples of {divisor}"
            )
    free, batch = table1.lossy_vae.free_bits, table1.lossy_vae.batch or table1.training.batch
    if "lossy_vae" in table1.systems and free > 0 and pieces is not None and pieces < batch:
        raise ConfigError(
            f"table1.lossy_vae.free_bits {free:g} needs the mean over the whole batch, which compute.images_per_pass {pieces} divides; "
            f"accepted: free_bits 0, or images_per_pass null or at least {batch}"
        )


def _check_source(params: Params) -> None:
    prepare = params.prepare
    if prepare.source == "photos" and prepare.photos.smallest_crop < prepare.image_size:
        raise ConfigError(
            f"prepare.photos.smallest_crop {prepare.photos.smallest_crop} is smaller than prepare.image_size {prepare.image_size}, crops "
            f"would be enlarged; accepted: at least {prepare.image_size}"
        )
    if prepare.source != "cifar10":
        return
    if prepare.image_size != 32:
        raise ConfigError(f"prepare.image_size {prepare.image_size}: the images of cifar10 have 32 pixels; accepted: 32")
    train, test = prepare.train_images or 0, prepare.test_images or 0
    if prepare.test_from_train and (prepare.train_images or 1) + (test_images(prepare) or 0) > CIFAR10_TRAIN:
        raise ConfigError(
            f"prepare.train_images {train} and {test_images(prepare)} test images are more than the {CIFAR10_TRAIN} training images of "
            f"cifar10; accepted: together at most {CIFAR10_TRAIN}"
        )
    for name, count, most in (("train_images", train, CIFAR10_TRAIN), ("test_images", test, CIFAR10_TEST)):
        if count > most and not prepare.test_from_train:
            raise ConfigError(f"prepare.{name} {count} is more than cifar10 has; accepted: at most {most}, or null for all")
