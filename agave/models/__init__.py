"""Every system that the pipeline trains, by name. Each has its own file and implements `agave.models.interface`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agave.config import Params
    from agave.models.interface import LikelihoodModel


@dataclass(frozen=True)
class Registration:
    """What is known of a system without importing it.

    Attributes:
        place: module and class, "agave.models.NAME:CLASS".
        bound: "exact" where the likelihood is computed itself, "elbo" where it is bounded from below, "dequantised" for a density.
        about: a full sentence that says what it is.
        reads: keys of the block `model` of params.yaml that it is made from; None: all of them. The block of `table1` that has the
            name of the system is read besides.
        architecture: "as published"; "sizes ours" where the publication gives no sizes; "our reading" where it leaves more open.
        deterministic: whether nothing in the bound is random, although it is a bound.
    """

    place: str
    bound: str
    about: str
    reads: tuple[str, ...] | None = None
    architecture: str = "as published"
    deterministic: bool = False

    @property
    def has_samples(self) -> bool:
        """Return whether the bound is an average over random numbers, so that more samples tighten it."""
        return self.bound != "exact" and not self.deterministic


REGISTRY = {
    "agave": Registration(
        "agave.models.agave:AGAVE", "elbo", "The VAE and a PixelCNN++ conditioned on it, trained together (Lucas & Verbeek 2017)."
    ),
    "vae_iaf": Registration(
        "agave.models.vae_iaf_alone:VAEIAFAlone",
        "elbo",
        "The ResNet VAE with inverse autoregressive flow alone (Kingma et al. 2016).",
        ("vae", "likelihood"),
    ),
    "pixelcnn_pp": Registration(
        "agave.models.pixelcnn_pp_alone:PixelCNNppAlone", "exact", "PixelCNN++ alone (Salimans et al. 2017).", ("pixelcnn_pp",)
    ),
    "masked_pixelcnn": Registration(
        "agave.models.masked_pixelcnn:MaskedPixelCNN",
        "exact",
        "PixelCNN: masked convolutions and a softmax over 256 values (van den Oord et al. 2016a).",
        (),
    ),
    "gated_pixelcnn": Registration(
        "agave.models.gated_pixelcnn:GatedPixelCNN",
        "exact",
        "Gated PixelCNN: a vertical and a horizontal stack with gates (van den Oord et al. 2016b).",
        (),
        architecture="sizes ours",
    ),
    "pixelrnn": Registration(
        "agave.models.pixelrnn:PixelRNN",
        "exact",
        "PixelRNN: diagonal bidirectional LSTM layers (van den Oord et al. 2016a).",
        (),
    ),
    "nice": Registration("agave.models.nice:NICE", "dequantised", "NICE, additive couplings on whitened images (Dinh et al. 2015).", ()),
    "real_nvp": Registration(
        "agave.models.real_nvp:RealNVP", "dequantised", "Real NVP, affine couplings at several scales (Dinh et al. 2017).", ()
    ),
    "aux_pixelcnn": Registration(
        "agave.models.aux_pixelcnn:AuxiliaryPixelCNN",
        "elbo",
        "Auxiliary PixelCNN: a grey image of few levels first, then the colours (Kolesnikov & Lampert 2017).",
        ("pixelcnn_pp",),
        deterministic=True,
        architecture="sizes ours",
    ),
    "conv_draw": Registration(
        "agave.models.conv_draw:ConvolutionalDRAW",
        "elbo",
        "Convolutional DRAW, our reading: latent variables in steps that add to a canvas (Gregor et al. 2016).",
        (),
        architecture="our reading",
    ),
    "lossy_vae": Registration(
        "agave.models.lossy_vae:LossyVAE",
        "elbo",
        "The variational lossy autoencoder, ResNet variant (Chen et al. 2017): a VAE whose decoder sees a small window of pixels.",
        (),
        architecture="sizes ours",
    ),
    "matnet": Registration(
        "agave.models.matnet:MatNet",
        "elbo",
        "The Matryoshka network (Bachman 2016), our reading: latent variables on several grids, and a small autoregressive part.",
        (),
        architecture="our reading",
    ),
}
"""One line a system. Those besides the first three are trained where `table1.systems` of params.yaml names them."""

OF_THE_PAPER = ("agave", "vae_iaf", "pixelcnn_pp")


class _Systems(Mapping[str, "type[LikelihoodModel]"]):
    """The classes by name. A class is imported when it is asked for, so that the names alone need no torch."""

    def __getitem__(self, name: str) -> type[LikelihoodModel]:
        module, _, class_name = REGISTRY[name].place.partition(":")
        found: type[LikelihoodModel] = getattr(importlib.import_module(module), class_name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTRY)

    def __len__(self) -> int:
        return len(REGISTRY)


SYSTEMS: Mapping[str, type[LikelihoodModel]] = _Systems()


def make_model(system: str, params: Params, image_size: int, **cell: Any) -> LikelihoodModel:
    """Make an untrained model.

    Args:
        system: its name in SYSTEMS.
        params: parameters of a preset, the result of `agave.config.load`.
        image_size: height and width of x, pixels.
        **cell: `resolution` (height and width of y, pixels) and `levels` (colour levels of y), where they are not those of x.

    Raises:
        UserError: there is no such system.
    """
    from agave.errors import UserError

    if system not in SYSTEMS:
        raise UserError(f"there is no system '{system}'; accepted: {', '.join(SYSTEMS)}")
    return SYSTEMS[system].from_options(params.model, image_size, sizes=params.table1.sizes(system), **cell)


def options_of(system: str, params: Params) -> dict[str, Any]:
    """Return the parameters that a model of a system is made from, as plain values: parts of the block `model`, and its own block."""
    model, reads = params.model.model_dump(), REGISTRY[system].reads
    own = params.table1.sizes(system)
    chosen = {key: value for key, value in model.items() if reads is None or key in reads}
    return chosen if own is None else chosen | {system: own.model_dump()}


def load(path: str | Path) -> LikelihoodModel:
    """Load a trained model: `agave.load`.

    Args:
        path: a model.safetensors of `agave pretrain` or `agave joint`; its metadata say what it is.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    from agave.models.files import load_model

    return load_model(Path(path))
