"""The weights of a training in one vector, their average, and the steps of Adamax."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.adamax import adamax

from agave.training.schedule import ema_rate

ALIGNMENT = 16
"""Each parameter begins at a multiple of so many numbers, because some kernels are faster, or only work, on aligned memory."""


class FlatWeights:
    """All parameters of a model in one vector, beside vectors of their average and of Adamax's two moments.

    A step of training changes some hundred small tensors in the same way. With one vector that is one operation instead of a hundred.

    Args:
        model: a model whose parameters are of one dtype and on one device; they become views of the vector.

    Attributes:
        tensors: the average, both moments and the numbers of updates, by name; with the weights, all that a later update depends on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.parameters = model, list(model.parameters())
        sizes = [-(-parameter.numel() // ALIGNMENT) * ALIGNMENT for parameter in self.parameters]
        self.vector = self.parameters[0].new_zeros(sum(sizes))
        self.gradient = torch.zeros_like(self.vector)
        self._gradients = [
            part[: parameter.numel()].view_as(parameter)
            for part, parameter in zip(torch.split(self.gradient, sizes), self.parameters, strict=True)
        ]
        for part, parameter in zip(torch.split(self.vector, sizes), self.parameters, strict=True):
            view = part[: parameter.numel()].view_as(parameter)
            view.copy_(parameter.detach())
            parameter.data = view
        self.tensors = {name: torch.zeros_like(self.vector) for name in ("average", "moment", "largest")}
        self.tensors["updates"] = torch.zeros(())  # on the CPU

    def collect_gradient(self) -> Tensor:
        """Move the gradients of all parameters into one vector, in which those without a gradient are 0, and return its norm, ()."""
        found = [
            (own, parameter.grad) for own, parameter in zip(self._gradients, self.parameters, strict=True) if parameter.grad is not None
        ]
        self.gradient.zero_()
        torch._foreach_copy_([own for own, _ in found], [grad for _, grad in found])
        self.model.zero_grad(set_to_none=True)
        norm: Tensor = torch.linalg.vector_norm(self.gradient)
        return norm

    @torch.no_grad()
    def update(self, learning_rate: float, ema_decay: float) -> None:
        """Make a step of Adamax along the collected gradient, then move the average towards the new weights.

        Source: Kingma & Ba (2015), Algorithm 2.
        """
        state = self.tensors
        adamax(
            [self.vector],
            [self.gradient],
            [state["moment"]],
            [state["largest"]],
            [state["updates"]],
            foreach=False,
            eps=1e-8,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=0.0,
        )
        # PAPER: weight averaging is not mentioned; both reference codebases evaluate averaged weights.
        state["average"].lerp_(self.vector, ema_rate(int(state["updates"]) - 1, ema_decay))

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the model's state on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def averaged_state(self) -> dict[str, Tensor]:
        """Return a copy of the model's state on the CPU, with the averaged weights in place of the last ones."""
        last = self.vector.clone()
        self.vector.copy_(self.tensors["average"])
        averaged = self.state()
        self.vector.copy_(last)
        return averaged
