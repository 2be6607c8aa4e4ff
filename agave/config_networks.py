"""Sizes of the networks: those of the paper's two, and those of the further systems of Table 1."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from agave.config_schema import block, parameter
from agave.config_types import Channels, Count, ParameterBlock, UpTo8, UpTo100


def check_kernel(size: int) -> None:
    """Check that a kernel has a middle column.

    Raises:
        ValueError: it has not.
    """
    if size % 2 == 0:
        raise ValueError(f"kernel {size}; accepted: an odd number, since the kernel has a middle column")


def check_groups(name: str, value: int, other_name: str, other: int) -> None:
    """Check that of two numbers of feature maps that masked convolutions join, one is a multiple of the other.

    Raises:
        ValueError: neither is.
    """
    if max(value, other) % min(value, other):
        raise ValueError(f"{name} {value} and {other_name} {other}; accepted: one a multiple of the other (masked convolutions)")


class VAEModel(ParameterBlock):
    """Size of the ResNet VAE with inverse autoregressive flow (Kingma et al. 2016)."""

    depth: UpTo8 = parameter(
        1,
        "Number of scales of the latent variables; each further one halves the grid.",
        open="The paper names the architecture but no size. Depth 1 with 20 layers is that of the published checkpoint.",
    )
    blocks: UpTo100 = parameter(20, "Number of stochastic layers per scale.")
    hidden: Channels = parameter(160, "Number of feature maps of the deterministic path (h).")
    latent: Channels = parameter(32, "Number of latent feature maps per stochastic layer (z).")
    free_bits: float = parameter(
        0,
        "KL per latent feature map that costs nothing in the objective, in nats; 0: off.",
        open="It is not said whether free bits were kept. They are off, because they bound the KL from below; the paper pushes it to zero.",
        ge=0,
    )
    published_init: bool = parameter(
        False,
        "Whether the initial gains are (scale/std)^(1/3) instead of scale/std.",
        open="The published IAF code starts with gains (scale/std)^(1/3). We use scale/std, as intended.",
    )

    @model_validator(mode="after")
    def _groups(self) -> VAEModel:
        check_groups("hidden", self.hidden, "latent", self.latent)
        return self


class PixelCNNppModel(ParameterBlock):
    """Size of PixelCNN++ (Salimans et al. 2017)."""

    filters: Channels = parameter(160, "Number of feature maps (F).")
    resnets: UpTo100 = parameter(5, "Number of gated blocks per resolution (R).")
    mixtures: UpTo100 = parameter(10, "Number of components of the mixture of logistics (K).")
    resolutions: UpTo8 = parameter(3, "Number of resolutions (32x32, 16x16, 8x8); each further one halves the grid.")
    dropout: float = parameter(
        0.5,
        "Probability of dropping an activation between the two convolutions of a block.",
        open="The paper does not mention dropout. 0.5 is the value of PixelCNN++.",
        ge=0,
        lt=1,
    )
    stream_channels: Channels = parameter(
        160,
        "Number of feature maps of the stream made from f(z).",
        open="The paper does not give the width of the feature stream. It is as wide as the PixelCNN++.",
    )


Groups = Annotated[int, Field(ge=3, le=65_536)]
"""Feature maps that are dealt to the three colours."""


class SystemBlock(ParameterBlock):
    """What a further system of Table 1 has of its own: sizes, and where it needs them a rate and a batch."""

    learning_rate: float | None = parameter(None, "Learning rate of Adamax for this system; null: that of table1.training.", gt=0, le=1)
    batch: Count | None = parameter(
        None, "Number of images per step for this system; null: that of table1.training. The number of images it sees stays the same."
    )


class NICEModel(SystemBlock):
    """NICE (Dinh et al. 2015): additive couplings on whitened images."""

    hidden: Channels = parameter(2000, "Number of units of a hidden layer of a coupling.")
    hidden_layers: UpTo100 = parameter(4, "Number of hidden layers of a coupling.")
    ridge: float = parameter(
        1e-5,
        "Variance added to every direction before whitening, in units of [-1, 1]; fewer images than pixels need more.",
        open="The paper whitens exactly, which needs more training images than values in an image.",
        gt=0,
        le=1,
    )


class ConvDRAWModel(SystemBlock):
    """Convolutional DRAW (Gregor et al. 2016): latent variables in steps that add to a canvas."""

    hidden: Channels = parameter(160, "Number of feature maps of the two LSTMs.", open="The paper's size for CIFAR-10 is not known to us.")
    latent: Channels = parameter(12, "Number of latent feature maps per step.", open="The paper's size for CIFAR-10 is not known to us.")
    steps: UpTo100 = parameter(32, "Number of steps.", open="The paper's number for CIFAR-10 is not known to us.")
    kernel: Annotated[int, Field(ge=1, le=15)] = parameter(
        3, "Height and width of the kernels, odd.", open="The paper's size for CIFAR-10 is not known to us."
    )

    @model_validator(mode="after")
    def _odd(self) -> ConvDRAWModel:
        check_kernel(self.kernel)
        return self


class RealNVPModel(SystemBlock):
    """Real NVP (Dinh et al. 2017): affine couplings at several scales."""

    scales: UpTo8 = parameter(2, "Number of scales; each further one halves the grid.")
    channels: Channels = parameter(64, "Number of feature maps of the couplings at the first scale; each squeeze and scale doubles it.")
    blocks: UpTo100 = parameter(8, "Number of residual blocks of a coupling.")
    alpha: float = parameter(0.05, "Distance from 0 and 1 that the argument of the logit keeps.", ge=1e-6, lt=0.5)


class WindowDecoder(ParameterBlock):
    """A PixelCNN++ that sees only a window of 7x4 pixels (Chen et al. 2017)."""

    sets: UpTo100 = parameter(4, "Number of sets of feature maps, each conditioned on the earlier ones.")
    filters: Channels = parameter(64, "Number of feature maps of a set.")
    mixtures: UpTo100 = parameter(10, "Number of components of the mixture of logistics (K).")


class OneSetDecoder(WindowDecoder):
    """The autoregressive part of MatNet."""

    sets: UpTo100 = parameter(1, "Number of sets of feature maps, each conditioned on the earlier ones.")


class MatNetModel(SystemBlock):
    """Matryoshka network (Bachman 2016): latent variables at several grids, joined by deterministic paths."""

    stride: Annotated[int, Field(ge=1, le=2)] = parameter(1, "Stride of the first convolution: the finest grid is image_size / stride.")
    channels: list[Annotated[int, Field(ge=2, le=65_536)]] = parameter(
        [96, 144, 192],
        "Number of feature maps on each grid, the finest first; each further grid halves the one before.",
        open="The sizes of the published model are not known to us; these are of the author's code of June 2016.",
        min_length=1,
        max_length=8,
    )
    modules: list[UpTo100] = parameter(
        [4, 4, 2], "Number of modules with latent variables on each grid, the finest first.", min_length=1, max_length=8
    )
    latent: Channels = parameter(6, "Number of latent feature maps per module.")
    top: Channels = parameter(32, "Number of latent variables of the top vector.")
    top_hidden: Channels = parameter(128, "Number of units between the top vector and the coarsest grid.")
    decoder: OneSetDecoder = block(OneSetDecoder, "The autoregressive part.")

    @property
    def divisor(self) -> int:
        """Return what image_size must be a multiple of."""
        return self.stride << (len(self.channels) - 1)

    @model_validator(mode="after")
    def _one_each(self) -> MatNetModel:
        if len(self.modules) != len(self.channels):
            raise ValueError(f"modules {self.modules} for channels {self.channels}; accepted: as many numbers of modules as of channels")
        return self


class MaskedPixelCNNModel(SystemBlock):
    """PixelCNN (van den Oord et al. 2016a): masked convolutions and a softmax over 256 values."""

    channels: Groups = parameter(128, "Number of feature maps h inside a residual block; 2h between the blocks.")
    blocks: UpTo100 = parameter(15, "Number of residual blocks.", open='The paper says "15 layers". We read residual blocks.')
    head: Groups = parameter(1024, "Number of feature maps of the two layers before the logits.")


class GatedPixelCNNModel(SystemBlock):
    """Gated PixelCNN (van den Oord et al. 2016b): a vertical and a horizontal stack with gates."""

    channels: Groups = parameter(128, "Number of feature maps of either stack.", open="The paper gives no size for CIFAR-10.")
    layers: UpTo100 = parameter(15, "Number of gated layers.", open="The paper gives no size for CIFAR-10.")
    kernel: Annotated[int, Field(ge=3, le=15)] = parameter(
        5, "Width of the kernels after the first layer, odd.", open="The paper gives no size for CIFAR-10."
    )
    head: Groups = parameter(1024, "Number of feature maps of the layer before the logits.", open="The paper gives no size for CIFAR-10.")

    @model_validator(mode="after")
    def _odd(self) -> GatedPixelCNNModel:
        check_kernel(self.kernel)
        return self


class PixelRNNModel(SystemBlock):
    """PixelRNN (van den Oord et al. 2016a): diagonal bidirectional LSTM layers and a softmax over 256 values."""

    channels: Groups = parameter(128, "Number of feature maps h of an LSTM; 2h between the layers.")
    layers: UpTo100 = parameter(12, "Number of LSTM layers.")
    head: Groups = parameter(1024, "Number of feature maps of the two layers before the logits.")


class AuxPixelCNNModel(SystemBlock):
    """Auxiliary PixelCNN (Kolesnikov & Lampert 2017): a grey image first, then the colours, by two networks like model.pixelcnn_pp."""

    levels: Annotated[int, Field(ge=1, le=256)] = parameter(16, "Number of levels of the grey image, a divisor of 256.")
    grey_filters: Channels = parameter(
        160, "Number of feature maps of the network of the grey image.", open="The paper's size is not known to us."
    )
    colour_filters: Channels | None = parameter(
        None,
        "Number of feature maps of the network of the colours and of its feature stream; null: those of model.pixelcnn_pp.",
        open="The paper's size is not known to us.",
    )

    def networks(self, like: PixelCNNppModel) -> tuple[PixelCNNppModel, PixelCNNppModel]:
        """Return the sizes of the networks of the grey image and of the colours; `like` has what they have in common."""
        f = self.colour_filters
        colour = like if f is None else like.model_copy(update={"filters": f, "stream_channels": f})
        return like.model_copy(update={"filters": self.grey_filters}), colour

    @model_validator(mode="after")
    def _whole_levels(self) -> AuxPixelCNNModel:
        if 256 % self.levels:
            raise ValueError(f"levels {self.levels} does not divide 256; accepted: 1, 2, 4, 8, 16, 32, 64, 128, 256")
        return self


class LossyVAEModel(SystemBlock):
    """Variational lossy autoencoder (Chen et al. 2017): an autoregressive prior, and a decoder that sees a small window."""

    channels: list[Channels] = parameter(
        [48, 96], "Number of feature maps at the size of x, and on the smaller grids.", min_length=2, max_length=2
    )
    latent: Channels = parameter(16, "Number of latent feature maps, on a grid of a quarter of the size of x.")
    flows: UpTo100 = parameter(6, "Number of autoregressive flows of the prior.")
    flow_channels: Channels = parameter(128, "Number of feature maps of a flow.")
    free_bits: float = parameter(
        0,
        "KL that costs nothing in the objective, in nats per image; 0: off.",
        open="The paper weights the KL so that it stays near a target, which it does not give.",
        ge=0,
    )
    decoder: WindowDecoder = block(WindowDecoder, "The decoder.")

    @model_validator(mode="after")
    def _groups(self) -> LossyVAEModel:
        check_groups("flow_channels", self.flow_channels, "latent", self.latent)
        return self
