"""The closed forms against the real networks, which torch counts on tensors without storage."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from agave import config
from agave.grid import Cell
from agave.models import OF_THE_PAPER, REGISTRY, make_model
from agave.planning import network_costs
from agave.planning.summary import _saved_bytes, summarize

PRESETS = ("paper", "study", "demo", "tiny")
KINDS = ("agave", "vae", "pixelcnn_pp")


@pytest.fixture(scope="module")
def document(root):
    return config.read(root / "params.yaml")


def meta_model(params, cell):
    with torch.device("meta"):
        return make_model(cell.system, params, params.prepare.image_size, resolution=cell.resolution)


def images(size, batch=1):
    return torch.zeros(batch, 3, size, size, dtype=torch.uint8, device="meta")


def changed(params, vae, pixelcnn_pp):
    model = params.model
    parts = {"vae": model.vae.model_copy(update=vae), "pixelcnn_pp": model.pixelcnn_pp.model_copy(update=pixelcnn_pp)}
    return params.model_copy(update={"model": model.model_copy(update=parts)})


def check_counts(params, cell):
    model = meta_model(params, cell)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images(params.prepare.image_size), images(cell.resolution))
    assert sum(network_costs.multiply_adds(params, cell).values()) == counter.get_total_flops() // 2
    assert sum(network_costs.parameters(params, cell).values()) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shrink", [1, 2, 4])
def test_parameters_and_multiply_adds_are_exact(document, preset, kind, shrink):
    params = config.resolve(document, preset)
    check_counts(params, Cell(kind, resolution=params.prepare.image_size // shrink))


@pytest.mark.parametrize("preset", [pytest.param("paper", marks=pytest.mark.integration), "tiny"])
@pytest.mark.parametrize("system", [name for name in REGISTRY if name not in OF_THE_PAPER])
def test_counts_of_the_further_systems_are_exact(document, preset, system):
    params = config.resolve(document, preset)
    check_counts(params, Cell(system, resolution=params.prepare.image_size))


@pytest.mark.parametrize(
    ("vae", "pixelcnn_pp"),
    [
        ({"depth": 3, "blocks": 2, "hidden": 6, "latent": 3}, {"resolutions": 1, "resnets": 3, "filters": 5, "stream_channels": 7}),
        ({"depth": 1, "blocks": 3, "hidden": 4, "latent": 8}, {"resolutions": 4, "resnets": 2, "filters": 3, "mixtures": 4}),
    ],
)
def test_counts_are_exact_for_other_sizes_of_the_networks(document, vae, pixelcnn_pp):
    params = changed(config.resolve(document, "demo"), vae, pixelcnn_pp)
    for kind in KINDS:
        check_counts(params, Cell(kind, resolution=16))


def test_the_parts_of_the_decoder_and_the_encoder_are_told_apart(document):
    """The bottom-up pass runs once an image, whatever the number of importance samples."""
    params = config.resolve(document, "demo")
    vae = meta_model(params, Cell("vae")).vae
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.encode(images(32))
    assert network_costs.multiply_adds(params, Cell("vae"))["encoder"] == counter.get_total_flops() // 2


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_a_training_step_within_a_quarter(document, preset, kind):
    params = config.resolve(document, preset)
    params = params.model_copy(update={"compute": params.compute.model_copy(update={"precision": "float32"})})
    size = params.prepare.image_size
    cell = Cell(kind, resolution=size)
    model = meta_model(params, cell)
    measured = _saved_bytes(model, images(size, 2)) - _saved_bytes(model, images(size, 1))
    assert network_costs.kept_bytes(params, cell) == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("preset", PRESETS)
def test_memory_of_the_sampler_within_a_quarter(document, preset):
    params = config.resolve(document, preset)
    assert network_costs.cache_bytes(params, Cell(resolution=params.prepare.image_size)) == pytest.approx(
        summarize(params).sampling_memory, rel=0.25
    )


class Peak(TorchDispatchMode):
    """Most bytes alive at once of the tensors made while active."""

    def __init__(self):
        super().__init__()
        self.alive, self.most, self.seen = 0, 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self.seen:
                self.seen[storage._cdata] = storage.nbytes()
                self.alive += storage.nbytes()
                self.most = max(self.most, self.alive)
                weakref.finalize(storage, self._end, storage._cdata)
        return out

    def _end(self, key):
        self.alive -= self.seen.pop(key, 0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_an_evaluation_within_a_factor_of_two(document, preset, kind):
    params = config.resolve(document, preset)
    size = params.prepare.image_size
    cell = Cell(kind, resolution=size)
    model = meta_model(params, cell).eval()
    model.likelihood_dtype = torch.float64

    def peak(batch):
        with torch.no_grad(), Peak() as watched:
            model(images(size, batch), images(size, batch))
        return watched.most

    assert 0.5 < network_costs.working_bytes(params, cell) / (peak(2) - peak(1)) < 2
