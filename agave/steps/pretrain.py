"""The step `pretrain`: train one of the two networks alone, from new weights."""

from __future__ import annotations

from pathlib import Path

from agave.config import Params, Training
from agave.grid import Cell
from agave.runtime.devices import Place
from agave.training.job import TrainingJob


def run(params: Params, part: str, resolution: int, seed: int, data: Path, output: Path, place: Place) -> None:
    """Train one network on the prepared images, and write its weights.

    Args:
        params: parameters of the preset.
        part: "vae" or "pixelcnn_pp".
        resolution: height and width of the auxiliary image (vae), pixels.
        seed: seed of weights, data order and noise.
        data: folder of `agave prepare`.
        output: folder for model.safetensors (averaged weights), raw.safetensors, history.csv and run.json.
        place: device and limits of the training.

    Raises:
        UserError: bad input, or no GPU where the preset wants one.
        InterruptedWorkError: stopped early with the state saved.
    """
    # PAPER: The paper does not say which pretrained VAE a joint model starts from. Here one VAE per resolution of y, at 256 levels
    # and one KL weight, serves all KL weights and colour levels, so that cells differ in their joint objective alone.
    # PAPER: The paper does not say what conditions the PixelCNN while it is pretrained. Here nothing does; its stream is added later.
    training: Training
    if part == "vae":
        cell, training = Cell("vae", kl_weight=params.pretrain.vae_kl_weight, resolution=resolution), params.pretrain.vae
    else:
        cell, training = Cell("pixelcnn_pp", resolution=params.prepare.image_size), params.pretrain.pixelcnn_pp
    TrainingJob("pretrain", params, cell, training, seed, data, output, place).run()
