import pytest
import torch

from agave import config
from agave.models.agave import AGAVE
from agave.objective import objective
from agave.planning.summary import summarize, summary_text
from agave.sampling.cached_pixelcnn_pp import CachedPixelCNNpp


@pytest.fixture(scope="module")
def document(root):
    return config.read(root / "params.yaml")


def test_full_size_networks_have_the_published_sizes(document):
    summary = summarize(config.resolve(document, "paper"))
    assert summary.parameters["PixelCNN++"] == 53_659_080
    assert summary.parameters["VAE"] == 41_557_927 + 2  # three scales instead of one
    assert summary.parameters["total"] == sum(v for k, v in summary.parameters.items() if k != "total")
    # the arithmetic of R = 5, F = 160 at 32x32, 16x16 and 8x8 by hand gives about 24.2 G
    assert summary.multiply_adds["PixelCNN++, unconditional"] / 1e9 == pytest.approx(24.2, rel=0.03)
    assert 20e6 < summary.sampling_memory < 60e6
    text = summary_text(summary, "paper")
    assert "53,659,080" in text and "1x100x32x32" in text


def test_numbers_are_those_of_the_real_model(document):
    """Parameters, and memory of the sampler's caches, against a model that is allocated."""
    params = config.resolve(document, "tiny")
    summary = summarize(params)
    model = AGAVE(params.model, 16)
    assert summary.parameters["total"] == sum(p.numel() for p in model.parameters())
    with torch.inference_mode():
        cache = CachedPixelCNNpp(model.pixelcnn_pp, 1, 16, 16, torch.zeros(1, 3, 16, 16))
    blocks = [block for stage in (*cache.up, *cache.down) for kind in stage for block in kind]
    injections = sum(block.injection.numel() for block in blocks)
    rows = sum(getattr(conv, "pixels" if hasattr(conv, "pixels") else "rows").numel() for b in blocks for conv in (b.conv1, b.conv2))
    assert 1.0 < summary.sampling_memory / (4 * (injections + rows)) < 1.5


def test_full_size_joint_model_runs_forward_and_backward(document):
    """One image on the CPU; everything is finite."""
    params = config.resolve(document, "paper")
    model = AGAVE(params.model, 32).train()
    x = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    model.initialise(x, x)
    terms = model(x, x)
    loss = objective(terms, 12.0)
    loss.backward()
    assert torch.isfinite(loss)
    without = {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if p.grad is None}
    assert without == {"vae.layers.19.up_out"}  # nothing reads the bottom-up state above the topmost layer
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
