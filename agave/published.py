"""The data and the model sizes that the paper, and the papers whose networks it uses, state."""

from __future__ import annotations

from dataclasses import dataclass

from agave.config import Params

DATA_SET = "CIFAR-10 test"
"""The data set of Table 1, as the manifest of `agave prepare` names it."""

IMAGES = 10_000
"""Number of test images of Table 1."""


@dataclass(frozen=True)
class Row:
    """A row of Table 1 of the paper: bits per dimension on the 10,000 CIFAR-10 test images.

    Attributes:
        model: name of the model in the paper.
        reference: publication that the number is from.
        bound: "<=" if the paper prints the number as an upper bound, otherwise "".
        bits_per_dim: the number as printed.
        number: what the number is, as far as its publication says.
        system: name of the system in `agave.models.REGISTRY`.
    """

    model: str
    reference: str
    bound: str
    bits_per_dim: str
    number: str
    system: str


EXACT, ONE_DRAW, ONE_SAMPLE = "exact", "bound, one draw of the dequantisation noise", "bound, one sample"
AGAVE = "AGAVE, λ = 12"
TABLE_1 = (
    Row("NICE", "Dinh et al., 2015", "", "4.48", ONE_DRAW, "nice"),
    Row("Conv. DRAW", "Gregor et al., 2016", "<=", "3.58", ONE_SAMPLE, "conv_draw"),
    Row("Real NVP", "Dinh et al., 2017", "", "3.49", ONE_DRAW, "real_nvp"),
    Row("MatNet", "Bachman, 2016", "<=", "3.24", ONE_SAMPLE, "matnet"),
    Row("PixelCNN", "Oord et al., 2016", "", "3.14", EXACT, "masked_pixelcnn"),
    Row("VAE-IAF", "Kingma et al., 2016", "<=", "3.11", "bound, importance-sampled", "vae_iaf"),
    Row("Gated pixelCNN", "van den Oord et al., 2016", "", "3.03", EXACT, "gated_pixelcnn"),
    Row("Pixel-RNN", "Oord et al., 2016", "", "3.00", EXACT, "pixelrnn"),
    Row("Aux. pixelCNN", "Kolesnikov & Lampert, 2017", "", "2.98", "bound without noise", "aux_pixelcnn"),
    Row("Lossy VAE", "Chen et al., 2017", "<=", "2.95", "bound, importance-sampled, K = 512", "lossy_vae"),
    Row(AGAVE, "Lucas & Verbeek, 2017", "<=", "2.92", "bound, importance-sampled, K = 150", "agave"),
    Row("pixCNN++", "Salimans et al., 2017", "", "2.92", EXACT, "pixelcnn_pp"),
)
# PAPER: The paper marks bounds of models with latent variables only. The values of NICE and Real NVP are bounds for 8-bit images too, and
# that of Aux. pixelCNN is one because its decoder also models images that have another grey image.

NAMES = {row.system: row.model for row in TABLE_1}
"""The names of the models in Table 1 of the paper, by system."""

LATENT_VARIABLES = tuple(row.system for row in TABLE_1 if row.bound and row.system != "agave")
"""The systems whose numbers the paper prints as bounds, because they have latent variables; without AGAVE."""

SIZES: dict[str, tuple[object, ...]] = {
    "prepare.source": ("cifar10",),
    "prepare.image_size": (32,),
    "prepare.train_images": (None, 50_000),
    "prepare.test_images": (None, IMAGES),
    "prepare.test_from_train": (False,),
    "model.vae.depth": (1,),
    "model.vae.blocks": (20,),
    "model.vae.hidden": (160,),
    "model.vae.latent": (32,),
    "model.pixelcnn_pp.filters": (160,),
    "model.pixelcnn_pp.resnets": (5,),
    "model.pixelcnn_pp.mixtures": (10,),
    "model.pixelcnn_pp.resolutions": (3,),
    "model.detach_features": (False,),
    "grid.table_kl_weight": (12,),
    "evaluate.iwae_samples": (150,),
    "evaluate.iwae_images": (None, IMAGES),
}
"""Values of the parameters with which a result of ours is of the published scale.

Data, number of samples and the KL weight of Table 1: the paper, sections 4.1 and 4.2. VAE: the published checkpoint of
Kingma et al. (2016). PixelCNN++: Salimans et al. (2017). Sizes that no paper gives are not here,
such as the width of the stream made from f(z).
"""


def not_as_published(params: Params) -> list[str]:
    """List the parameters that are not as published.

    Args:
        params: the parameters of a preset.

    Returns:
        Their names with their values, for example "model.vae.blocks 2"; empty for models of the published scale.
    """
    found = []
    for name, accepted in SIZES.items():
        value: object = params
        for part in name.split("."):
            value = getattr(value, part)
        if value not in accepted:
            found.append(f"{name} {value}")
    return found
