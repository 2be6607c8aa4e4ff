"""What a training step asks of a device, counted on tensors without storage."""

import importlib.util
import sys

import pytest

from agave import config

PORT = (3084, 7.0)
"""Operations that are not views, and GB read and written, of a training step of the published PyTorch port of PixelCNN++, batch 2."""


@pytest.fixture(scope="module")
def operations(root):
    spec = importlib.util.spec_from_file_location("operations", root / "benchmarks/operations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["operations"] = module
    spec.loader.exec_module(module)
    return module


def test_pixelcnn_pp_asks_no_more_than_the_published_port(operations, root):
    found = operations.count("pixelcnn_pp", config.load(root / "params.yaml", "paper"))
    assert sum(found.names.values()) <= PORT[0] and found.traffic / 1e9 <= PORT[1]
    assert found.convolutions == 412
