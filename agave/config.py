"""Typed parameters: the only place with ranges and units.

params.yaml holds one complete preset (`paper`) and presets that say only what differs from it.
`load` lays the chosen preset over `paper`, validates the result and returns it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agave.errors import UserError

COMPLETE_PRESET = "paper"

PositiveInt = Annotated[int, Field(ge=1)]
KLWeight = Annotated[float, Field(ge=0, le=1000, description="weight of the KL term, the paper's lambda; 0 to 1000")]


class ConfigError(UserError):
    """A parameter is missing, misspelt or out of range; the message names it and what is accepted."""


class Block(BaseModel):
    """A block of params.yaml. Unknown keys are errors; values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Photos(Block):
    """How the embedded photographs are cropped."""

    train_crops: PositiveInt = Field(description="training crops")
    test_crops: PositiveInt = Field(description="held-out crops, from photographs that give no training crop")
    smallest_crop: int = Field(ge=8, le=400, description="side of the smallest crop, pixels of the photograph")
    largest_crop: int = Field(ge=8, le=400, description="side of the largest crop, pixels of the photograph")

    @model_validator(mode="after")
    def _ordered(self) -> Photos:
        if self.smallest_crop > self.largest_crop:
            raise ValueError(
                f"smallest_crop {self.smallest_crop} is larger than largest_crop {self.largest_crop}; "
                "accepted: smallest_crop <= largest_crop"
            )
        return self


class Prepare(Block):
    """Which images are modelled."""

    source: Literal["cifar10", "images", "photos"] = Field(description="cifar10, images (given by path) or photos (embedded)")
    path: str | None = Field(description="images: array file or folder; cifar10: folder with the archive; null: the default")
    image_size: int = Field(ge=8, le=256, description="height and width of x, pixels")
    train_images: PositiveInt | None = Field(description="use only the first so many training images; null: all")
    test_images: PositiveInt | None = Field(
        description="cifar10: the first so many of the test split, null: all; images: so many after those to train on, null: a sixth"
    )
    test_from_train: bool = Field(description="cifar10: hold out the training images that follow the first train_images")
    seed: int = Field(ge=0, description="seed of the crops (photos)")
    photos: Photos


class VAEModel(Block):
    """Size of the ResNet VAE with inverse autoregressive flow (Kingma et al. 2016)."""

    depth: int = Field(ge=1, le=8, description="scales of the latent variables; each further one halves the grid")
    blocks: int = Field(ge=1, le=100, description="stochastic layers per scale")
    hidden: int = Field(ge=1, description="feature maps of the deterministic path (h)")
    latent: int = Field(ge=1, description="latent feature maps per stochastic layer (z)")
    free_bits: float = Field(ge=0, description="nats of KL per latent feature map that cost nothing in the objective; 0: off")
    published_init: bool = Field(description="initial gains (scale/std)^(1/3) as in the published code instead of scale/std")

    @model_validator(mode="after")
    def _groups(self) -> VAEModel:
        if max(self.hidden, self.latent) % min(self.hidden, self.latent):
            raise ValueError(f"hidden {self.hidden} and latent {self.latent}; accepted: one a multiple of the other (masked convolutions)")
        return self


class PixelCNNppModel(Block):
    """Size of PixelCNN++ (Salimans et al. 2017)."""

    filters: int = Field(ge=1, description="feature maps (F)")
    resnets: int = Field(ge=1, description="gated blocks per resolution (R)")
    mixtures: int = Field(ge=1, le=100, description="components of the mixture of logistics (K)")
    resolutions: int = Field(ge=1, le=8, description="resolutions; each further one halves the grid")
    dropout: float = Field(ge=0, lt=1, description="probability of dropping an activation between the two convolutions")
    stream_channels: PositiveInt = Field(description="feature maps of the stream made from f(z)")


class Likelihood(Block):
    """The discretized logistic of the auxiliary image."""

    tails: bool = Field(description="edge colour bins absorb the tails; false: Eq. 8 as printed")


class Model(Block):
    """The two networks and how they are joined."""

    vae: VAEModel
    pixelcnn_pp: PixelCNNppModel
    likelihood: Likelihood
    upsampling: Literal["bilinear", "nearest"] = Field(description="how a low-resolution f(z) is brought to the size of x")
    detach_features: bool = Field(description="ablation: stop the PixelCNN gradient at f(z)")


class Compute(Block):
    """Where and in which precision the networks run."""

    device: Literal["cuda", "cpu", "auto"] = Field(description="cuda: refuse to run without a GPU; auto: a GPU if there is one")
    precision: Literal["float32", "bfloat16"] = Field(description="of the convolutions while training; likelihoods stay float32")
    images_per_pass: PositiveInt | None = Field(
        description="most images computed at once on a device while training, the batch being gathered over passes; null: all of its share"
    )
    checkpointing: bool = Field(
        description="compute activations again in the backward pass instead of keeping them: less memory, more time"
    )
    compile: bool = Field(description="let torch.compile fuse the networks while training; needs a C++ compiler on a CPU")


class Training(Block):
    """One training run."""

    steps: PositiveInt = Field(description="optimizer steps")
    batch: PositiveInt = Field(description="images per step, over all devices")
    learning_rate: float = Field(gt=0, le=1, description="of Adamax")
    warmup_steps: int = Field(ge=0, description="steps over which the learning rate rises linearly from 0")
    cooldown_steps: int = Field(ge=0, description="last steps, over which it falls linearly to 0; 0: constant")
    ema_decay: float = Field(ge=0, lt=1, description="decay of the averaged weights, per step")
    init_images: PositiveInt = Field(description="images of the data-dependent initialisation")
    skip_gradient_norm: float = Field(gt=0, description="an update with a larger gradient norm (nats per image) is skipped")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Training:
        if self.warmup_steps + self.cooldown_steps > self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} + cooldown_steps {self.cooldown_steps} exceed steps {self.steps}; "
                "accepted: a sum of at most steps"
            )
        return self


class Pretrain(Block):
    """The two independent pretrainings."""

    vae_kl_weight: KLWeight
    vae: Training
    pixelcnn_pp: Training


class ResolutionCell(Block):
    """An auxiliary image smaller than x."""

    resolution: PositiveInt = Field(description="height and width of y, pixels")
    kl_weight: KLWeight


class Grid(Block):
    """The trained models: one cell each."""

    kl_weights: list[KLWeight] = Field(min_length=1, description="at 256 levels and full resolution")
    table_kl_weight: KLWeight
    levels: list[int] = Field(min_length=1, description="colour levels b of y; divisors of 256")
    levels_kl_weight: KLWeight
    resolutions: list[ResolutionCell]
    without_auxiliary_kl_weight: KLWeight | None = Field(description="cell without the auxiliary loss; null: none")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, description="one training of every model for each")

    @field_validator("seeds")
    @classmethod
    def _rising(cls, seeds: list[int]) -> list[int]:
        return sorted(seeds)  # which seed is the first, whose images are shown and measured, does not depend on the order in the file

    @model_validator(mode="after")
    def _consistent(self) -> Grid:
        for levels in self.levels:
            if levels < 2 or 256 % levels:
                raise ValueError(f"levels {levels} does not divide 256; accepted: 2, 4, 8, 16, 32, 64, 128, 256")
        weights = [*self.kl_weights, self.levels_kl_weight, *(cell.kl_weight for cell in self.resolutions)]
        for weight in [*weights, self.without_auxiliary_kl_weight or 0.0]:
            if weight != round(weight, 6):
                raise ValueError(f"KL weight {weight!r}; accepted: at most six decimals")
        for name in ("kl_weights", "levels", "seeds", "resolutions"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values} names a value twice; accepted: distinct values")
        if self.table_kl_weight not in self.kl_weights:
            raise ValueError(f"table_kl_weight {self.table_kl_weight:g} is not in kl_weights; accepted: one of {self.kl_weights}")
        return self


class Evaluate(Block):
    """The bounds that are reported."""

    batch: PositiveInt = Field(description="images (or image samples) per forward pass, at most; does not change the result")
    iwae_samples: PositiveInt = Field(description="K of the importance-sampled bound (IWAE)")
    iwae_images: PositiveInt | None = Field(description="the first so many test images for IWAE; null: all")
    seed: int = Field(ge=0, description="of the noise, keyed by image and sample")


class Sample(Block):
    """The images that are drawn for the figures."""

    images: PositiveInt = Field(description="test images reconstructed, and samples drawn, per cell")
    batch: PositiveInt = Field(description="images sampled at once; does not change the result")
    seed: int = Field(ge=0, description="of the noise, shared by all cells")
    round_pixels: bool = Field(description="feed each pixel back rounded to 8 bits (exact); false: unrounded, as published")
    temperature: float = Field(gt=0, le=10, description="of the mixture: 1 is the law of the model, below it likelier pixels")
    completion_rows: PositiveInt = Field(description="first rows of the test images that are given and completed")


class Figures(Block):
    """How the figures look."""

    columns: PositiveInt = Field(description="images per row")
    dpi: int = Field(ge=50, le=1200, description="of the PNG files")


class Params(Block):
    """All parameters of one preset."""

    prepare: Prepare
    model: Model
    compute: Compute
    pretrain: Pretrain
    grid: Grid
    joint: Training
    evaluate: Evaluate
    sample: Sample
    figures: Figures

    @property
    def test_images(self) -> int | None:
        """The number of test images, as far as the parameters say."""
        if self.prepare.source == "photos":
            return self.prepare.photos.test_crops
        whole = self.prepare.source == "cifar10" and not self.prepare.test_from_train
        return self.prepare.test_images or (10_000 if whole else None)

    @property
    def iwae_images(self) -> int | None:
        """The number of images of the importance-sampled bound, as far as the parameters say."""
        return self.evaluate.iwae_images or self.test_images

    @model_validator(mode="after")
    def _sizes_fit(self) -> Params:
        size = self.prepare.image_size
        for name, divisor in (
            ("model.pixelcnn_pp.resolutions", 2 ** (self.model.pixelcnn_pp.resolutions - 1)),
            ("model.vae.depth", 2**self.model.vae.depth),
        ):
            if size % divisor:
                raise ValueError(
                    f"prepare.image_size {size} is not divisible by {divisor}, which {name} needs; accepted: multiples of {divisor}"
                )
        if self.prepare.source == "cifar10" and size != 32:
            raise ValueError(f"prepare.image_size {size}: the images of cifar10 have 32 pixels; accepted: 32")
        tests = self.test_images
        for name, count in (("sample.images", self.sample.images), ("evaluate.iwae_images", self.evaluate.iwae_images)):
            if tests is not None and count is not None and count > tests:
                raise ValueError(f"{name} {count} is more than there are test images; accepted: at most {tests}")
        if self.sample.completion_rows >= size:
            raise ValueError(f"sample.completion_rows {self.sample.completion_rows}; accepted: 1 to {size - 1}, below image_size")
        accepted = [size // 2, size // 4]
        for cell in self.grid.resolutions:
            if cell.resolution not in accepted:
                raise ValueError(
                    f"grid.resolutions: resolution {cell.resolution} is no half or quarter of prepare.image_size {size}; "
                    f"accepted: {accepted[0]}, {accepted[1]}"
                )
        return self


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `difference` over `base`, block by block; lists and values are replaced whole."""
    merged = dict(base)
    for key, value in difference.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def resolve(document: Mapping[str, Any], preset: str | None = None, name: str = "params.yaml") -> Params:
    """Validate one preset of an already read params.yaml.

    Args:
        document: the whole file: `preset`, `paper` and the other presets.
        preset: which preset; None takes the one that the file names.
        name: of the file, for messages.

    Raises:
        ConfigError: a preset is missing, or a key or value of it is not accepted.
    """
    presets = [key for key, value in document.items() if isinstance(value, Mapping)]
    if COMPLETE_PRESET not in presets:
        raise ConfigError(f"{name}: the preset '{COMPLETE_PRESET}', on which the others build, is missing")
    preset = str(document.get("preset") if preset is None else preset)
    if preset not in presets:
        raise ConfigError(f"{name}: there is no preset '{preset}'; accepted: {', '.join(presets)}")
    try:
        return Params.model_validate(merge(document[COMPLETE_PRESET], document[preset]))
    except ValidationError as error:
        raise ConfigError("\n".join(_messages(error, document, preset, name))) from None


def load(path: str | Path = "params.yaml", preset: str | None = None) -> Params:
    """Read, resolve and validate the parameters of a preset.

    Args:
        path: the parameter file.
        preset: which preset; None takes the one that the file names.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key or value is not accepted.
    """
    return resolve(read(path), preset, str(path))


def read(path: str | Path) -> dict[str, Any]:
    """Read a params.yaml without resolving it.

    Raises:
        ConfigError: the file is missing or no YAML mapping.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); accepted: a YAML file of presets") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: holds no mapping; accepted: a YAML file of presets")
    return document


def flatten(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of a nested mapping as (dotted name, value)."""
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def origins(document: Mapping[str, Any], preset: str) -> dict[str, str]:
    """Which preset set each value: {dotted name: preset}."""
    names = {key: COMPLETE_PRESET for key, _ in flatten(document[COMPLETE_PRESET])}
    return names | {key: preset for key, _ in flatten(document[preset])}


def _holds(block: Any, keys: tuple[Any, ...]) -> bool:
    """Whether a preset itself sets the value at these keys, or something on the way to it."""
    for key in keys:
        if not isinstance(block, Mapping):
            return True
        if key not in block:
            return False
        block = block[key]
    return True


def _messages(error: ValidationError, document: Mapping[str, Any], preset: str, name: str) -> Iterator[str]:
    for detail in error.errors():
        keys = [str(part) for part in detail["loc"]]
        key = ".".join(keys)
        source = preset if _holds(document[preset], detail["loc"]) else COMPLETE_PRESET
        if detail["type"] == "extra_forbidden":
            parent: Any = Params
            for part in keys[:-1]:
                field = parent.model_fields.get(part)
                parent = field.annotation if field is not None else None
                if not (isinstance(parent, type) and issubclass(parent, BaseModel)):
                    break
            else:
                yield f"{name}: {source}.{key}: unknown key; accepted: {', '.join(parent.model_fields)}"
                continue
            yield f"{name}: {source}.{key}: unknown key"
        elif detail["type"] == "missing":
            yield f"{name}: {COMPLETE_PRESET}.{key}: missing; the preset '{COMPLETE_PRESET}' must be complete"
        else:
            where = f"{source}.{key}" if key else source
            message = detail["msg"].removeprefix("Value error, ")
            value = "" if isinstance(detail["input"], (dict, BaseModel)) or detail["type"] == "value_error" else f"{detail['input']!r}: "
            yield f"{name}: {where}: {value}{message}"


def json_schema() -> dict[str, Any]:
    """JSON schema of params.yaml, used by Snakemake: `paper` complete, every other preset a part of it."""
    full = Params.model_json_schema()
    definitions = full.pop("$defs")

    def partial(schema: Any) -> Any:
        if isinstance(schema, dict):
            part = {key: partial(value) for key, value in schema.items() if key != "required"}
            if isinstance(part.get("$ref"), str):
                part["$ref"] = part["$ref"].replace("#/$defs/", "#/$defs/Partial")
            return part
        return [partial(item) for item in schema] if isinstance(schema, list) else schema

    whole_items = {"ResolutionCell"}  # items of lists are replaced whole, so they stay complete
    partials = {f"Partial{key}": definitions[key] if key in whole_items else partial(value) for key, value in definitions.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml",
        "description": "Generated from agave/config.py by `agave config --schema`.",
        "type": "object",
        "properties": {
            "preset": {"type": "string", "description": "the preset that runs"},
            "images": {"type": ["string", "null"], "description": "given on the command line: path for the source 'images'"},
            "tflops": {
                "type": ["number", "null"],
                "exclusiveMinimum": 0,
                "description": "given on the command line: sustained TFLOP/s of a device, for the time that jobs ask for",
            },
            COMPLETE_PRESET: full,
        },
        "required": ["preset", COMPLETE_PRESET],
        "additionalProperties": partial({k: v for k, v in full.items() if k != "title"}),
        "$defs": definitions | partials,
    }


def schema_text() -> str:
    """The schema as it is committed in workflow/schemas/params.schema.json."""
    return json.dumps(json_schema(), indent=2) + "\n"
