"""Shapes and types are checked while tests run; independent reference numbers are read where they lie beside the checkout."""

import os
from pathlib import Path

from jaxtyping import install_import_hook

install_import_hook("agave", "beartype.beartype")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
ORACLES = Path(os.environ.get("AGAVE_ORACLES", ROOT.parent / "shared" / "oracles"))


@pytest.fixture(scope="session")
def oracle():
    """Read a file of independently computed reference numbers, or skip the test without it."""

    def read(name):
        path = ORACLES / name
        if not path.exists():
            pytest.skip(f"reference numbers {path.name} are not beside the checkout (set AGAVE_ORACLES)")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    return read


@pytest.fixture(autouse=True)
def _one_thread_and_seed(request):
    if "torch" in request.fixturenames or hasattr(request.module, "torch"):
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT
