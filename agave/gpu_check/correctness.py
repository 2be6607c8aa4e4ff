"""The part `correctness`: networks, likelihoods, gradients, bounds and samplers on the device against float64 on the CPU."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from agave.evaluation.importance import iwae_bounds
from agave.gpu_check.setting import CHECKS, Finding, Setting, Size, registered
from agave.likelihoods import bits_per_dim
from agave.models import REGISTRY, SYSTEMS
from agave.models.interface import LikelihoodModel, Noise
from agave.objective import objective
from agave.random_numbers import StepNumbers
from agave.sampling import sample
from agave.sampling.cuda_graphs import without_recording

OUTPUTS, BITS, GRADIENT = 1e-3, 1e-4, 1e-3
"""Largest relative difference of the networks' outputs, difference in bits/dim, and relative difference of the gradient in float32."""

HALF_BITS, HALF_GRADIENT = 0.1, 0.3
"""The same for convolutions in bfloat16, which have three significant figures."""


def run(setting: Setting) -> dict[str, Any]:
    """Return all checks as plain values."""
    found = [asdict(check) for _, checks in registered(CHECKS) for check in checks(setting)]
    return {"checks": found, "passed": all(check["passed"] for check in found)}


def against_float64(setting: Setting) -> Iterator[Finding]:
    """Compare outputs of the networks, likelihoods and gradients of every system with float64 on the CPU, same weights and noise."""
    for size in setting.sizes:
        for system in SYSTEMS:
            if setting.left() < 0:
                yield _no_time(system, size)
                continue
            model, x_uint8 = setting.model(system, size)
            x_uint8, model = x_uint8[:2], model.train()
            noise = model.draw_noise(len(x_uint8), StepNumbers(0))
            exact = _pass(copy.deepcopy(model).double(), x_uint8, noise, None)
            model.to(setting.device)
            plain = _pass(model, x_uint8, noise, None)
            half = _pass(model, x_uint8, noise, torch.bfloat16)
            yield _close(f"{system}: outputs of the networks", size, _relative(plain["outputs"], exact["outputs"]), OUTPUTS)
            yield _close(f"{system}: log-likelihood, bits/dim", size, _bits_apart(plain, exact), BITS)
            yield _close(f"{system}: gradient", size, _relative(plain["gradient"], exact["gradient"]), GRADIENT)
            yield _close(f"{system}: log-likelihood in bfloat16, bits/dim", size, _bits_apart(half, exact), HALF_BITS)
            yield _close(f"{system}: gradient in bfloat16", size, _relative(half["gradient"], exact["gradient"]), HALF_GRADIENT)


def importance_weights(setting: Setting) -> Iterator[Finding]:
    """Compare the importance-sampled bounds of every system whose bound has random numbers with float64 on the CPU."""
    for size in setting.sizes:
        for system in (name for name, known in REGISTRY.items() if known.has_samples):
            if setting.left() < 0:
                yield _no_time(system, size)
                continue
            model, x_uint8 = setting.model(system, size)
            x_uint8, model = x_uint8[:2], model.eval()
            model.likelihood_dtype = torch.float64
            found = []
            for one in (copy.deepcopy(model).double(), model.to(setting.device)):
                x = x_uint8.to(next(one.parameters()).device)
                with contextlib.redirect_stderr(io.StringIO()):
                    found.append(torch.from_numpy(iwae_bounds(one, x, x, samples=3, seed=0, batch=2)["growth"]))
            difference = float((found[0] - found[1]).abs().max())
            yield _close(f"{system}: importance-sampled bound, bits/dim", size, bits_per_dim(difference, x_uint8[0].numel()), BITS)


def cached_sampler(setting: Setting) -> Iterator[Finding]:
    """Compare the cached sampler, with and without CUDA graphs, with a whole pass for every pixel."""
    for size in setting.sizes:
        for system in ("pixelcnn_pp", "agave"):
            model, x_uint8 = setting.model(system, size)
            network: Any = model.to(setting.device).eval().pixelcnn_pp
            pixels = 8 if size == "tiny" else x_uint8.shape[-1]
            given = x_uint8[:2, :, :pixels, :pixels].to(setting.device)
            features: Tensor | None = torch.zeros(given.shape, device=setting.device).uniform_(-1, 1) if network.feature_channels else None

            options: dict[str, Any] = {"features": features, "batch": 2, "shape": tuple(given.shape[-2:]), "seed": 0}
            cached = sample(network, **options, teacher=given, return_logits=True)[1]
            slow = sample(network, **options, teacher=given, return_logits=True, cached=False)[1]
            drawn = sample(network, **options)
            with without_recording():
                unrecorded = sample(network, **options, teacher=given, return_logits=True)[1]
                drawn_unrecorded = sample(network, **options)
            yield _close(f"{system}: cached sampler against whole passes, logits", size, _relative(cached, slow), OUTPUTS)
            same = bool(torch.equal(cached, unrecorded) and torch.equal(drawn, drawn_unrecorded))
            note = "" if setting.on_gpu else "there are no CUDA graphs on a CPU: the same code twice"
            yield Finding(f"{system}: sampler with CUDA graphs equals that without", size, None, None, same, note)


def _pass(model: LikelihoodModel, x_uint8: Tensor, noise: Noise, autocast: torch.dtype | None) -> dict[str, Tensor]:
    """Return outputs of the networks, log-likelihoods and the gradient of a step, each as one float64 tensor on the CPU."""
    like = next(model.parameters())
    kept: list[Tensor] = []
    own = model._for_likelihood

    def recording(outputs: Tensor) -> Tensor:
        kept.append(outputs)
        return own(outputs)

    noise = tree_map(lambda tensor: tensor.to(like.device, like.dtype if tensor.is_floating_point() else None), noise)
    x_uint8 = x_uint8.to(like.device)
    model.zero_grad(set_to_none=True)
    model._for_likelihood = recording  # type: ignore[method-assign]  # it is given what the networks put out
    try:
        with torch.autocast(like.device.type, dtype=autocast, enabled=autocast is not None):
            terms = model(x_uint8, x_uint8, noise)
            loss = objective(terms, 2.0)
    finally:
        del model._for_likelihood
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return {"outputs": _flat(kept), "log_prob": _flat([terms.log_prob]), "gradient": _flat(gradients), "dimensions": _flat([x_uint8[0]])}


def _no_time(system: str, size: Size) -> Finding:
    return Finding(
        f"{system}: not compared", size, None, None, False, "the time of this part was over: give more --minutes, or fewer --parts"
    )


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in tensors])


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).norm() / other.double().norm())


def _bits_apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return bits_per_dim(float((one["log_prob"] - other["log_prob"]).abs().max()), len(one["dimensions"]))


def _close(name: str, size: Size, found: float, tolerance: float) -> Finding:
    return Finding(name, size, found, tolerance, found <= tolerance)  # false for NaN
