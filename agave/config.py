"""Typed parameters: the only place with defaults, ranges and units.

params.yaml holds one complete preset (`paper`, the defaults below) and presets that say only what differs from it.
`load` lays the chosen preset over `paper`, validates the whole file and returns the chosen preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agave import config_checks, presets
from agave import config_networks as networks
from agave.config_schema import block, parameter
from agave.config_types import Count, Images, KLWeight, ParameterBlock, PathText, Seed, Seeds, Steps, UpTo100
from agave.yaml_files import Document


class Photos(ParameterBlock):
    """How the embedded photographs are cropped."""

    train_crops: Annotated[int, Field(ge=1, le=1_000_000)] = parameter(4000, "Number of training crops, from four photographs.")
    test_crops: Annotated[int, Field(ge=2, le=1_000_000)] = parameter(500, "Number of test crops, from two other photographs.")
    smallest_crop: int = parameter(48, "Side of the smallest crop, in pixels of the photograph.", ge=8, le=400)
    largest_crop: int = parameter(256, "Side of the largest crop, in pixels of the photograph.", ge=8, le=400)

    @model_validator(mode="after")
    def _ordered(self) -> Photos:
        config_checks.check_crops(self)
        return self


class Prepare(ParameterBlock):
    """Which images are modelled."""

    source: Literal["cifar10", "images", "photos"] = parameter(
        "cifar10",
        "Where the images come from: cifar10, images (an array file or folder given by path) or photos (crops of embedded photographs).",
        paper="4.1",
    )
    path: PathText | None = parameter(
        None, "Array file or folder of images (images), or folder with the CIFAR-10 archive (cifar10; null: data/)."
    )
    image_size: int = parameter(32, "Height and width of x in pixels.", paper="4.1", ge=8, le=256)
    train_images: Count | None = parameter(
        None, "Number of training images, the first ones; null: all (cifar10: 50,000). Not used by photos.", paper="4.1"
    )
    test_images: Images | None = parameter(
        None,
        "Number of test images. cifar10: the first ones of the test split; null: all 10,000. "
        "images: those after the training images; null: a sixth of all. Not used by photos.",
        paper="4.1",
    )
    test_from_train: bool = parameter(False, "Whether the training images that follow the first train_images are held out (cifar10).")
    seed: Seed = parameter(0, "Seed of the crops (photos).")
    photos: Photos = block(Photos, "How the embedded photographs are cropped; the crops are resized to image_size.")


class Likelihood(ParameterBlock):
    """The discretized logistic of the auxiliary image."""

    tails: bool = parameter(
        True,
        "Whether the edge colour bins of y absorb the tails of the logistic; false: Eq. 8 as printed.",
        open="Eq. 8 as printed loses the mass outside [0, 256]. Ours sums to one; false is Eq. 8 as printed.",
    )


class Model(ParameterBlock):
    """The two networks and how they are joined."""

    vae: networks.VAEModel = block(
        networks.VAEModel, "ResNet VAE with IAF; the sizes are those of the checkpoint published by Kingma et al. (2016)."
    )
    pixelcnn_pp: networks.PixelCNNppModel = block(networks.PixelCNNppModel, "PixelCNN++ as published by Salimans et al. (2017).")
    likelihood: Likelihood = block(Likelihood, "The discretized logistic of the auxiliary image.")
    upsampling: Literal["bilinear", "nearest"] = parameter(
        "bilinear",
        "How a low-resolution f(z) is brought to the size of x: bilinear or nearest.",
        open='The paper conditions on "an upsampled version" of a low-resolution f(z), without saying how it is upsampled.',
    )
    detach_features: bool = parameter(False, "Whether the PixelCNN's gradient stops at f(z): an ablation, and another method.")


class Compute(ParameterBlock):
    """Where and in which precision the networks run."""

    device: Literal["cuda", "cpu", "auto"] = parameter(
        "cuda", "Device of the networks: cuda (a training job without a GPU stops), cpu, or auto (a GPU if there is one)."
    )
    precision: Literal["float32", "bfloat16"] = parameter(
        "bfloat16",
        "Precision of the convolutions while training; likelihoods and reported numbers are float32 or better.",
        open="The paper does not give the precision.",
    )
    images_per_pass: Count | None = parameter(
        None, "Most images computed at once on a device while training; a batch takes several passes. null: all of its share at once."
    )
    checkpointing: bool = parameter(
        False, "Whether activations are computed again in the backward pass: half the memory of a training step, a third more arithmetic."
    )
    allreduce: Literal["float32", "bfloat16"] = parameter(
        "float32", "Precision in which the devices of one training add their gradients; bfloat16: half the traffic between them."
    )
    compile: bool = parameter(False, "Whether torch.compile fuses the networks while training; minutes to start, then faster on a GPU.")


STEPS, EMA_DECAY = "Number of optimizer steps.", "Decay of the averaged weights per step."
INIT_IMAGES = "Number of images of the data-dependent initialisation."


class Training(ParameterBlock):
    """One training run; the defaults are those of the joint training."""

    steps: Count = parameter(100_000, STEPS, open="The paper gives no training length. These are about 128 epochs of 50,000 images.")
    batch: Count = parameter(64, "Number of images per step, over all devices.", open="The paper gives no batch size.")
    learning_rate: float = parameter(0.002, "Learning rate of Adamax; constant but for warm-up and cool-down.", paper="4.1", gt=0, le=1)
    warmup_steps: Steps = parameter(
        1000,
        "Number of steps over which the learning rate rises linearly from 0.",
        open="A linear start is not mentioned. Without it the first steps diverge, and the first joint steps raise the PixelCNN loss.",
    )
    cooldown_steps: Steps = parameter(0, "Number of last steps over which the learning rate falls linearly to 0; 0: no decay.", paper="4.1")
    ema_decay: float = parameter(
        0.9995, EMA_DECAY, open="The paper does not mention weight averaging. 0.9995 is the value of PixelCNN++.", ge=0, lt=1
    )
    init_images: Images = parameter(64, INIT_IMAGES)
    skip_gradient_norm: float = parameter(1e6, "Gradient norm above which an update is skipped and counted, in nats per image.", gt=0)

    @model_validator(mode="after")
    def _schedule_fits(self) -> Training:
        config_checks.check_schedule(self)
        return self


class VAETraining(Training):
    """The pretraining of the VAE."""

    steps: Count = parameter(200_000, STEPS, open="The paper gives no training length. These are about 256 epochs of 50,000 images.")
    ema_decay: float = parameter(
        0.999, EMA_DECAY, open="The paper does not mention weight averaging. 0.999 is the value of the published IAF code.", ge=0, lt=1
    )
    init_images: Images = parameter(256, INIT_IMAGES)


class PixelCNNppTraining(Training):
    """The pretraining of PixelCNN++."""

    steps: Count = parameter(
        400_000,
        STEPS,
        open="The paper gives no training length. These are about 512 epochs of 50,000 images; PixelCNN++ took days on 8 GPUs.",
    )
    init_images: Images = parameter(128, INIT_IMAGES)


class Pretrain(ParameterBlock):
    """The two independent pretrainings."""

    vae_kl_weight: KLWeight = parameter(
        1,
        "Weight of the KL term while the VAE is pretrained.",
        open="The paper does not give the KL weight of the VAE's pretraining. 1 is the bound of the VAE itself.",
    )
    vae: VAETraining = block(VAETraining, "Pretraining of the VAE.")
    pixelcnn_pp: PixelCNNppTraining = block(PixelCNNppTraining, "Pretraining of PixelCNN++.")


class ResolutionCell(ParameterBlock):
    """An auxiliary image smaller than x."""

    resolution: Count = parameter(..., "Height and width of y in pixels: half or a quarter of image_size.")
    kl_weight: KLWeight = parameter(..., "Weight of the KL term (lambda).")


class FurtherTraining(Training):
    """The training of a further system of Table 1, from new weights."""

    steps: Count = parameter(500_000, STEPS, open="the systems come from other papers; as many as PixelCNN++ has in both its trainings.")
    init_images: Images = parameter(128, INIT_IMAGES)


class Table1(ParameterBlock):
    """The further systems of Table 1, and the sizes of each."""

    systems: list[str] = parameter(
        ["nice", "conv_draw", "real_nvp", "matnet", "masked_pixelcnn", "gated_pixelcnn", "pixelrnn", "aux_pixelcnn", "lossy_vae"],
        "Names of further systems that are trained, one model each; `agave models` lists all systems.",
        paper="Table 1",
        open="The paper cites their numbers. We train them.",
        max_length=40,
    )
    training: FurtherTraining = block(FurtherTraining, "Training of a further system, from new weights.")
    masked_pixelcnn: networks.MaskedPixelCNNModel = block(networks.MaskedPixelCNNModel, "PixelCNN (van den Oord et al. 2016a).")
    gated_pixelcnn: networks.GatedPixelCNNModel = block(networks.GatedPixelCNNModel, "Gated PixelCNN (van den Oord et al. 2016b).")
    pixelrnn: networks.PixelRNNModel = block(
        networks.PixelRNNModel, "PixelRNN with diagonal bidirectional LSTM layers (van den Oord et al. 2016a)."
    )
    aux_pixelcnn: networks.AuxPixelCNNModel = block(
        networks.AuxPixelCNNModel, "Auxiliary PixelCNN, grey image (Kolesnikov & Lampert 2017)."
    )
    nice: networks.NICEModel = block(networks.NICEModel, "NICE (Dinh et al. 2015).")
    real_nvp: networks.RealNVPModel = block(networks.RealNVPModel, "Real NVP (Dinh et al. 2017).")
    lossy_vae: networks.LossyVAEModel = block(networks.LossyVAEModel, "Variational lossy autoencoder, the ResNet one (Chen et al. 2017).")
    matnet: networks.MatNetModel = block(networks.MatNetModel, "Matryoshka network (Bachman 2016), our reading.")
    conv_draw: networks.ConvDRAWModel = block(networks.ConvDRAWModel, "Convolutional DRAW (Gregor et al. 2016), our reading.")

    @model_validator(mode="after")
    def _known(self) -> Table1:
        config_checks.check_systems(self.systems)
        return self

    def sizes(self, system: str) -> networks.SystemBlock | None:
        """Return the block of a system; None for one that has none."""
        found = getattr(self, system, None)
        return found if isinstance(found, networks.SystemBlock) else None


class Grid(ParameterBlock):
    """The trained models: one cell each."""

    kl_weights: list[KLWeight] = parameter(
        [1, 2, 4, 8, 12],
        "Weights of the KL term (lambda) at 256 levels and full resolution; the text names 1, 2, 8 and 12.",
        paper="4.2",
        open="The other ticks of Figures 3 and 4 cannot be read from the text. We add 4.",
        min_length=1,
        max_length=40,
    )
    table_kl_weight: KLWeight = parameter(12, "Weight of the KL term of AGAVE in Table 1.", paper="Table 1")
    levels: list[int] = parameter(
        [256, 128, 64, 32, 16, 8, 4, 2],
        "Numbers of colour levels b of y, divisors of 256; the text names 256 and 32.",
        paper="4.2",
        open="The other numbers of levels of Figure 5 cannot be read from the text.",
        min_length=1,
        max_length=8,
    )
    levels_kl_weight: KLWeight = parameter(8, "Weight of the KL term of Figure 5.", paper="Figure 5")
    resolutions: list[ResolutionCell] = parameter(
        [ResolutionCell(resolution=16, kl_weight=8), ResolutionCell(resolution=8, kl_weight=8)],
        "Auxiliary images smaller than x, 16x16 and 8x8 pixels of 32x32, at 256 levels, each with its weight of the KL term.",
        paper="4.2",
        open="The paper does not give lambda for the low-resolution models. It is that of Figure 5.",
        max_length=24,
    )
    without_auxiliary_kl_weight: KLWeight | None = parameter(
        1,
        "Weight of the KL term of the model without the auxiliary loss; null: no such model.",
        open="The paper argues the degenerate case but does not run it. We run it.",
    )
    seeds: Seeds = parameter(
        [0],
        "Seeds: every model is trained once for each.",
        open="The paper does not give the number of runs.",
        min_length=1,
        max_length=1000,
    )

    @model_validator(mode="after")
    def _consistent(self) -> Grid:
        config_checks.check_grid(self)
        return self


class Evaluate(ParameterBlock):
    """The bounds that are reported."""

    batch: Count = parameter(
        100, "Number of image samples per forward pass, at most; fewer where memory is short. It does not change the result."
    )
    iwae_samples: Count = parameter(150, "Number of samples K of the importance-sampled bound (IWAE).", paper="4.2")
    iwae_images: Images | None = parameter(
        None, "Number of test images of the importance-sampled bound, the first ones; null: all.", paper="Table 1"
    )
    seed: Seed = parameter(0, "Seed of the noise, keyed by image and sample.")


class Sample(ParameterBlock):
    """The images that are drawn for figures and claims."""

    images: Images = parameter(64, "Number of test images reconstructed, and of samples drawn, per cell and seed; the claims measure them.")
    shown: Images = parameter(64, "Number of these images that git keeps for the figures, the first ones of the first seed, at most.")
    batch: Count = parameter(64, "Number of images sampled at once. It does not change the result.")
    seed: Seed = parameter(0, "Seed of the noise, shared by all cells: same test images, same noise.")
    round_pixels: bool = parameter(
        True,
        "Whether each pixel is fed back rounded to 8 bits.",
        open="The published sampler feeds unrounded values back. Ours samples from the exact discrete distribution.",
    )
    temperature: float = parameter(
        1, "Temperature of the mixture of logistics: 1 is the law of the model, below it pixels are likelier.", gt=0, le=10
    )
    completion_rows: Count = parameter(16, "Number of first rows of the test images that are given and completed (figure completions).")


class Compression(ParameterBlock):
    """Which models compress test images without loss."""

    cells: list[Literal["pixelcnn_pp", "table", "smallest", "vae"]] = parameter(
        ["pixelcnn_pp", "table", "smallest", "vae"],
        "Which models: pixelcnn_pp, vae, and AGAVE at grid.table_kl_weight (table) and at the smallest of grid.kl_weights (smallest).",
    )
    images: Images = parameter(500, "Largest number of test images that are compressed, the first ones; fewer where there are fewer.")
    group: Annotated[int, Field(ge=1, le=65_536)] = parameter(64, "Largest number of images coded together.")
    others: bool = parameter(True, "Whether JPEG XL, JPEG-LS, AVIF and oxipng are compared as well as PNG and WebP; needs agave[codecs].")

    @model_validator(mode="after")
    def _distinct(self) -> Compression:
        config_checks.check_distinct("cells", self.cells)
        return self


class Figures(ParameterBlock):
    """How the figures look."""

    columns: UpTo100 = parameter(8, "Number of images per row.")
    dpi: int = parameter(200, "Resolution of the PNG files in pixels per inch.", ge=50, le=1200)


class Params(ParameterBlock):
    """All parameters of one preset; the defaults are those of the preset `paper`."""

    prepare: Prepare = block(Prepare, "Which images are modelled.")
    model: Model = block(Model, "The two networks and how they are joined.")
    compute: Compute = block(Compute, "Where and in which precision the networks run.")
    pretrain: Pretrain = block(Pretrain, "VAE and PixelCNN++ are trained independently, in parallel.", paper="4.1")
    table1: Table1 = block(Table1, "Further systems of Table 1, beside the models of the grid.")
    grid: Grid = block(Grid, "The trained models; each is a cell.")
    joint: Training = block(Training, "Both networks are trained with all losses, from the two pretrained ones.", paper="4.1")
    evaluate: Evaluate = block(Evaluate, "The bounds that are reported.")
    sample: Sample = block(Sample, "The images that are drawn for figures and claims.")
    codec: Compression = block(Compression, "Lossless compression of test images, to files as long as the likelihoods say.", paper="4.2")
    figures: Figures = block(Figures, "How the figures look.")

    @property
    def train_images(self) -> int | None:
        """Return the number of training images, as far as the parameters say."""
        return config_checks.train_images(self.prepare)

    @property
    def test_images(self) -> int | None:
        """Return the number of test images, as far as the parameters say."""
        return config_checks.test_images(self.prepare)

    @property
    def iwae_images(self) -> int | None:
        """Return the number of images of the importance-sampled bound, as far as the parameters say."""
        return self.evaluate.iwae_images or self.test_images

    @model_validator(mode="after")
    def _fit_together(self) -> Params:
        config_checks.check_combinations(self)
        return self


def read(path: str | Path = "params.yaml") -> Document:
    """Read a params.yaml without resolving it.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something else than presets.
    """
    return presets.read_presets(path)


def resolve(document: Mapping[str, Any], preset: str | None = None, name: str = "params.yaml") -> Params:
    """Validate an already read params.yaml, all of it, and return one preset.

    Args:
        document: the whole file: `preset`, `paper` and the other presets.
        preset: which preset; None takes the one that the file names.
        name: name of the file, for messages.

    Raises:
        ConfigError: a preset is missing, or a key or value of the file is not accepted; one line for each.
    """
    return presets.resolve_preset(Params, document, preset, name)


def load(path: str | Path = "params.yaml", preset: str | None = None) -> Params:
    """Read, resolve and validate the parameters of a preset.

    Args:
        path: the parameter file.
        preset: which preset; None takes the one that the file names.

    Raises:
        ConfigError: the file cannot be read, is not a YAML mapping, or a key or value of it is not accepted; one line for each.
    """
    return resolve(read(path), preset, str(path))
