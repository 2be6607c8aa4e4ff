"""The cost of one layer, from its sizes alone. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

LIKELIHOOD_OF_X = 60
"""Numbers that a training step keeps for its backward pass for each pixel and mixture component of x, as network_costs.py explains."""


@dataclass(frozen=True)
class Convolution:
    """One convolution, weight-normalised if nothing else is said; a dense layer has one tap and one place.

    Attributes:
        inputs: number of input channels.
        outputs: number of output channels.
        taps: number of taps of the kernel, height times width.
        places: number of grid points at which the kernel is applied, for one image.
        reads: number of grid points of its input.
        per_output: trainable numbers of an output channel besides the weights: 2 for gain and bias, 1 for one of the two, 0 for none.
        shared: whether its trainable numbers are those of an earlier layer.
    """

    inputs: int
    outputs: int
    taps: int
    places: int
    reads: int
    per_output: int = 2
    shared: bool = False

    @property
    def parameters(self) -> int:
        """Return the number of trainable numbers."""
        return 0 if self.shared else self.inputs * self.outputs * self.taps + self.per_output * self.outputs

    @property
    def multiply_adds(self) -> int:
        """Return the number of multiply-adds in one forward pass of one image."""
        return self.inputs * self.outputs * self.taps * self.places


@dataclass(frozen=True)
class Numbers:
    """Trainable numbers that are no part of a convolution, such as initial states.

    Attributes:
        parameters: how many there are.
    """

    parameters: int
    inputs: int = 0
    reads: int = 0
    multiply_adds: int = 0
