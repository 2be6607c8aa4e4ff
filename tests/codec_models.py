"""Small trained models and images for the tests of the codec."""

import copy
from functools import cache
from pathlib import Path

import numpy as np
import torch

from agave import config
from agave.models import make_model
from agave.models.interface import LikelihoodModel
from agave.objective import objective
from agave.random_numbers import StepNumbers

SIZE = 8


def images(count, height=SIZE, width=SIZE, seed=0):
    """Smooth pictures with a little noise, (N, H, W, 3)."""
    numbers = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 16
    waves = [np.sin(a * rows + b * columns + c) for a, b, c in numbers.uniform(-3, 3, (3 * count, 3))]
    made = 128 + 60 * np.reshape(waves, (count, 3, height, width)) + numbers.normal(0, 3, (count, 3, height, width))
    return np.ascontiguousarray(made.round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


@cache
@torch.inference_mode(False)
def _trained(system: str, **sizes: int) -> LikelihoodModel:
    params = config.load(Path(__file__).resolve().parents[1] / "params.yaml", "tiny")
    vae = params.model.vae.model_copy(update=sizes)
    params = params.model_copy(update={"model": params.model.model_copy(update={"vae": vae})})
    torch.manual_seed(0)
    model = make_model(system, params, SIZE).train()
    x = torch.from_numpy(images(64, seed=1)).permute(0, 3, 1, 2).contiguous()
    model.initialise(x[:32], x[:32])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(32):
        part = x[8 * (step % 8) :][:8]
        optimizer.zero_grad()
        objective(model(part, part, model.draw_noise(8, StepNumbers(0, step))), 2.0).backward()
        optimizer.step()
    return model.eval()


def trained(system, **sizes):
    """A model of the preset tiny after a second of training, in float64; `sizes` are those of its VAE."""
    return copy.deepcopy(_trained(system, **sizes)).double()
