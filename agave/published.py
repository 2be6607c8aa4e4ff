"""The data and the model sizes that the paper, and the papers whose networks it uses, state."""

from __future__ import annotations

from agave.config import Params

DATA_SET = "CIFAR-10 test"
"""The data set of Table 1, as the manifest of `agave prepare` names it."""

IMAGES = 10_000
"""Number of test images of Table 1."""

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
