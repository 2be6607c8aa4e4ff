"""Summarise the networks of a preset: sizes counted in network_costs.py, or found by running them on tensors without storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agave.config import Params
from agave.grid import Cell
from agave.models.agave import AGAVE
from agave.models.interface import LikelihoodModel
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.objective import objective
from agave.planning import network_costs
from agave.sampling.cached_pixelcnn_pp import CachedPixelCNNpp

INNER = ("conv1", "conv2", "skip", "inject", "dropout", "h0", "h1", "mean", "log_deviation")  # layers too small to list


@dataclass(frozen=True)
class ModuleShape:
    """A module of the network: its path, output shape (batch 1) and number of parameters."""

    path: str
    output: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Summary:
    """Sizes of the joint model of a preset, y = x.

    Attributes:
        parameters: number of trainable numbers per part.
        multiply_adds: number of multiply-adds of convolutions and matrix products in a forward pass, per image, for each part and the
            joint model.
        training_memory: memory kept for the backward pass in float32, bytes per image, without weights and optimizer.
        weights_memory: memory of weights, gradients, Adamax state (two) and averaged weights in float32, bytes.
        sampling_memory: memory of the sampler's caches in float32, bytes per image.
        shapes: the network's modules, in the order in which data passes them.
    """

    parameters: dict[str, int]
    multiply_adds: dict[str, int]
    training_memory: int
    weights_memory: int
    sampling_memory: int
    shapes: list[ModuleShape]


def summarize(params: Params) -> Summary:
    """Compute sizes, arithmetic and memory of the joint model of a preset. Nothing is allocated."""
    size = params.prepare.image_size
    cell = Cell(resolution=size)
    parts, convolutions = network_costs.parameters(params, cell), network_costs.multiply_adds(params, cell)
    adds = {
        "VAE": convolutions["encoder"] + convolutions["decoder"],
        "PixelCNN++, unconditional": convolutions["PixelCNN++"],
        "PixelCNN++ with feature stream": convolutions["PixelCNN++"] + convolutions["feature stream"],
        "joint model, forward": sum(convolutions.values()),
    }
    with torch.device("meta"):
        model = AGAVE(params.model, size)
        x = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        # what a second image adds, because the effective weights are kept once whatever the batch
        training = _saved_bytes(model, x.expand(2, -1, -1, -1)) - _saved_bytes(model, x)
        sampling = _cache_bytes(model.pixelcnn_pp, 2, size) - _cache_bytes(model.pixelcnn_pp, 1, size)
        shapes = list(_shapes(model, x))
    total = sum(parts.values())
    return Summary(parts | {"total": total}, adds, training, 5 * 4 * total, sampling, shapes)


def summary_text(summary: Summary, preset: str) -> str:
    """Return the summary as text for a terminal."""
    mib = 2**20
    lines = [f"preset {preset}: joint model, y = x, per image (batch 1)", "", "parameters"]
    lines += [f"  {name:<32}{count:>16,}" for name, count in summary.parameters.items()]
    lines += ["", "multiply-adds, forward (a training step takes about three times as many)"]
    lines += [f"  {name:<32}{count / 1e9:>16,.3f} G" for name, count in summary.multiply_adds.items()]
    lines += ["", "memory, float32"]
    rows = {
        "kept for the backward pass": summary.training_memory,
        "caches while sampling": summary.sampling_memory,
        "weights, gradients, optimizer, average (once)": summary.weights_memory,
    }
    lines += [f"  {name:<46}{size / mib:>10,.1f} MiB" for name, size in rows.items()]
    lines += ["", f"  {'module':<40}{'output':<24}{'parameters':>12}"]
    lines += [f"  {s.path:<40}{'x'.join(map(str, s.output)):<24}{s.parameters:>12,}" for s in summary.shapes]
    return "\n".join(lines) + "\n"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _saved_bytes(model: LikelihoodModel, x: Tensor) -> int:
    """Count the bytes of the distinct tensors that a joint training step keeps for its backward pass, without the weights."""
    weights = {id(parameter) for parameter in model.parameters()}
    kept: dict[int, tuple[Tensor, int]] = {}  # the tensors are held, so that no id is used twice

    def pack(tensor: Tensor) -> Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in weights:
            kept[id(base)] = (base, base.numel() * base.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        objective(model(x, x), 1.0)
    return sum(size for _, size in kept.values())


def _cache_bytes(pixelcnn_pp: PixelCNNpp, batch: int, size: int) -> int:
    """Count the bytes of the sampler's tensors for a batch, including folded weights."""
    with torch.inference_mode():
        return memory(CachedPixelCNNpp(pixelcnn_pp, batch, size, size, torch.zeros(batch, 3, size, size)))


def memory(thing: object) -> int:
    """Return the bytes of every tensor that an object holds, without parameters; a tensor and its views count once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in _tensors(thing, set())}
    return sum(storage.nbytes() for storage in storages.values())


def _tensors(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """Yield every tensor, other than parameters, that an object holds, directly or in lists and objects."""
    if id(thing) in seen or isinstance(thing, nn.Module | nn.Parameter):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from _tensors(item, seen)
    elif hasattr(thing, "__dict__"):
        for item in vars(thing).values():
            yield from _tensors(item, seen)


def _shapes(model: LikelihoodModel, x: Tensor) -> Iterator[ModuleShape]:
    """Return blocks and outer convolutions in the order in which they finish."""
    found: list[ModuleShape] = []
    hooks = []
    for path, module in model.named_modules():
        inside_a_block = path.rsplit(".", 1)[-1] in INNER
        if not path or inside_a_block or isinstance(module, nn.ModuleList | nn.ModuleDict):
            continue

        def hook(module: nn.Module, _: object, out: object, path: str = path) -> None:
            if isinstance(out, Tensor):
                found.append(ModuleShape(path, tuple(out.shape), _count(module)))

        hooks.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model(x, x)
    for handle in hooks:
        handle.remove()
    yield from found
