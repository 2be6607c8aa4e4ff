"""NICE (Dinh, Krueger & Bengio 2015): additive couplings on whitened images."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave import config_networks
from agave.config import Model
from agave.config_checks import check_whitening
from agave.config_networks import SystemBlock
from agave.models.dequantised import DequantisedDensity
from agave.models.layers import at_least_float32, full_precision
from agave.models.whitening import fit_whitening
from agave.random_numbers import RandomNumbers

COUPLINGS = 4


class Rectifier(nn.Module):
    """The function m of a coupling: hidden layers of rectified units, and a linear output.

    Args:
        inputs: number of values that are given, and that are returned.
        hidden: number of units of a hidden layer.
        hidden_layers: number of hidden layers.
    """

    def __init__(self, inputs: int, hidden: int, hidden_layers: int) -> None:
        super().__init__()
        widths = [inputs] + [hidden] * hidden_layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(hidden, inputs)
        # PAPER: NICE does not say how its weights start. Output layers start uniform in (-0.01, 0.01), as in the released code, so that a
        # coupling is near the identity; hidden layers start as in PyTorch.
        nn.init.uniform_(self.out.weight, -0.01, 0.01)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Return m(z): (B, inputs) -> (B, inputs), in the dtype of the weights."""
        h = z.to(self.out.weight.dtype)
        for layer in self.hidden:
            h = F.relu(layer(h))
        with full_precision(h):
            return self.out(at_least_float32(h))  # type: ignore[no-any-return]


class AdditiveCouplings(nn.Module):
    """Four additive couplings, in turn of the odd values given the even ones and the reverse, and a scale of every value.

    Args:
        dimension: number of values D, even.
        hidden: number of units of a hidden layer of a coupling.
        hidden_layers: number of hidden layers of a coupling.

    Raises:
        ValueError: the number of values is odd.

    Source: Dinh et al. (2015), sections 3 and 5.
    """

    def __init__(self, dimension: int, hidden: int, hidden_layers: int) -> None:
        super().__init__()
        if dimension % 2:
            raise ValueError(f"{dimension} values; accepted: an even number, which falls into two halves")
        self.couplings = nn.ModuleList(Rectifier(dimension // 2, hidden, hidden_layers) for _ in range(COUPLINGS))
        self.log_scale = nn.Parameter(torch.zeros(dimension))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, D) and log |det dz/dy| (), which is that of the scales alone, for y (B, D)."""
        given, changed = y[:, 0::2], y[:, 1::2]
        for m in self.couplings:
            given, changed = changed + m(given), given
        z = torch.stack((given, changed), dim=2).flatten(1)  # after an even number of couplings each half is in its place
        log_scale = self.log_scale.to(z.dtype)
        return z * torch.exp(log_scale), log_scale.sum()

    def inverse(self, z: Tensor) -> Tensor:
        """Return y (B, D) from z (B, D)."""
        z = z * torch.exp(-self.log_scale.to(z.dtype))
        given, changed = z[:, 0::2], z[:, 1::2]
        for m in reversed(self.couplings):
            given, changed = changed, given - m(changed)
        return torch.stack((given, changed), dim=2).flatten(1)


class NICE(DequantisedDensity):
    """NICE: images are whitened, then additive couplings make their values independent and logistic.

    Args:
        image_size: height and width of x, pixels.
        hidden: number of units of a hidden layer of a coupling.
        hidden_layers: number of hidden layers of a coupling.
        ridge: variance added to every direction before whitening, in units of [-1, 1].

    Source: Dinh et al. (2015). 4.48 bits per dimension is their 5371.78 nats of CIFAR-10 in units of [-1, 1]: 7 - 5371.78 / (3072 log 2).
    """

    # PAPER: NICE trained with AdaM and took the best weights on validation images. Ours trains as all systems here do.

    system = "nice"
    init_on_all_images = True
    mean: Tensor
    whitening: Tensor
    log_det_whitening: Tensor

    def __init__(self, image_size: int, hidden: int, hidden_layers: int, ridge: float) -> None:
        super().__init__(image_size)
        dimension = 3 * image_size**2
        self.ridge, self.flow = ridge, AdditiveCouplings(dimension, hidden, hidden_layers)
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("whitening", torch.eye(dimension))
        self.register_buffer("log_det_whitening", torch.zeros((), dtype=torch.float64))

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> NICE:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, config_networks.NICEModel)
        return cls(image_size, sizes.hidden, sizes.hidden_layers, sizes.ridge)

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Fit the whitening to all training images.

        Raises:
            UserError: the whitening needs more memory than this machine has.
        """
        check_whitening(self.image_size)
        mean, whitening, log_det = fit_whitening(x_uint8, self.ridge)
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)
        self.log_det_whitening.copy_(log_det)

    def standardise(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Whiten: (B, 3, H, W) in level units -> (B, D), rows of R, then of G, then of B."""
        with full_precision(v):
            y = (v.flatten(1) / 128 - 1 - self.mean) @ self.whitening.to(v.dtype)
        return y, self.log_det_whitening - y.shape[1] * math.log(128)

    def to_levels(self, y: Tensor) -> Tensor:
        """Undo the whitening: (B, D) -> (B, 3, H, W) in level units."""
        unit: Tensor = torch.linalg.solve(self.whitening.to(y.dtype), y.T).T + self.mean
        return ((unit + 1) * 128).reshape(-1, 3, self.image_size, self.image_size)

    def log_prior(self, z: Tensor) -> Tensor:
        """Return the log-density of the standard logistic."""
        return F.logsigmoid(z) + F.logsigmoid(-z)

    def draw_prior(self, numbers: RandomNumbers, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return standard logistic values."""
        return torch.logit(numbers.uniform(0, shape, like))
