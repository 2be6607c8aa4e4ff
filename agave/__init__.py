"""Auxiliary Guided Autoregressive Variational Autoencoders (Lucas & Verbeek, 2017), reproduced.

    import agave

    model = agave.load("results/demo/joint/kl_weight~2-levels~256-resolution~32/seed~0/model.safetensors")
    model.log_prob(images)              # nats of each image: exact, or a lower bound (see model.bound)
    model.sample(16, seed=0)            # uint8 (16, 3, 32, 32)
    model.reconstruct(images, seed=0)   # f(z), for systems with latent variables

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agave.models import SYSTEMS, load

__all__ = ["SYSTEMS", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    from importlib import import_module

    if name == "__version__":
        return import_module("importlib.metadata").version("agave")
    if name in __all__:
        return getattr(import_module("agave.models"), name)
    raise AttributeError(f"module 'agave' has no attribute '{name}'")
