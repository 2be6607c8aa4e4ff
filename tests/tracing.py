"""Run outside pytest, where no type checker is between the lines: what torch.compile and a GPU make of a system.

python tests/tracing.py SYSTEM PART, with PART one of `compile` and `cuda`.
"""

import sys
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from agave import config, sampling
from agave.models import make_model
from agave.objective import objective
from agave.random_numbers import POSTERIOR, KeyedNumbers, StepNumbers
from agave.sampling.cuda_graphs import RecordedSteps

SIZE = 16


def params():
    """Preset tiny with dropout."""
    found = config.load(Path(__file__).resolve().parents[1] / "params.yaml", "tiny")
    sizes = found.model.pixelcnn_pp.model_copy(update={"dropout": 0.5})
    return found.model_copy(update={"model": found.model.model_copy(update={"pixelcnn_pp": sizes})})


def compiled(system):
    """A step of training and an evaluation in one graph each, with the values of eager execution."""
    torch.manual_seed(0)
    model = make_model(system, params(), SIZE).train()
    x = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    model.initialise(x, x)
    for training in (True, False):
        model.train(training)
        whole = torch.compile(model, fullgraph=True, backend="aot_eager")
        found = []
        for run in (model, whole):
            model.zero_grad()
            terms = run(x, x, model.draw_noise(2, StepNumbers(0)))
            loss = objective(terms, 2.0)
            if training:
                loss.backward()
            found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert all(float((a - b).norm()) < 1e-3 * (1 + float(b.norm())) for a, b in zip(*found, strict=True))


def on_fake_cuda(system):
    """Forward pass, evaluation, importance sampling and sampling with tensors that say that they lie on a GPU: neither a tensor on
    another device nor a value that the host waits for goes unnoticed."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = make_model(system, params(), SIZE).train()
        x = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8, device="cuda")
        for training in (True, False):
            model.train(training)
            terms = model(x, x, model.draw_noise(2, StepNumbers()) if training else model.draw_noise(2, KeyedNumbers(0, POSTERIOR, [0, 1])))
            assert objective(terms, 2.0).device.type == "cuda"
        model.likelihood_dtype = torch.float64
        with torch.inference_mode():
            encoding = tree_map(lambda tensor: tensor if tensor is None else tensor[:1].expand(3, *tensor.shape[1:]), model.encode(x))
            noise = model.draw_noise(3, KeyedNumbers(0, POSTERIOR, [0] * 3, range(3)))
            weights = model.terms(encoding, x[:1].expand(3, -1, -1, -1), x[:1].expand(3, -1, -1, -1), noise).log_prob
            assert weights.device.type == "cuda" and weights.dtype == torch.float64
            sampling.RecordedSteps = lambda device, record: RecordedSteps(device, False)  # only a GPU can record a CUDA graph
            assert model.sample(2, seed=0).device.type == "cuda"


if __name__ == "__main__":
    {"compile": compiled, "cuda": on_fake_cuda}[sys.argv[2]](sys.argv[1])
