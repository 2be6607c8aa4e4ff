"""Code the latent variables of the ResNet VAE with bits back.

The sender pops z from the stack with the posterior as distribution and pushes it with the prior, so that it costs the KL divergence alone.
The receiver pops z with the prior and, once it has the image, pushes z with the posterior: every bit is back where it was.

z, in units of its prior, falls into one of 2^b bins; the middle of a bin stands for all of it. Given the latent values before it in the
order of the flow, an element of z is Gaussian under the posterior as it is under the prior.

Source: Townsend et al. (2019), Practical lossless compression with latent variables using bits back coding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agave.codec.bins import SLOT_BITS, Bins
from agave.codec.entropy import Floats, Integers, Stack, distance_to_boundary, exp, round_to_grid
from agave.codec.flow import CachedFlow, Front, by_pixel
from agave.models.vae_iaf import VAEIAF, Encoding, StochasticLayer, TopDown

_SHARED_KEY = 0x4147_5645  # of the bins that sender and receiver draw alike


class NotFinite(Exception):  # noqa: N818
    """The posterior of a latent variable is not a number, because the flow overflows."""


@dataclass(frozen=True)
class Sent:
    """The latent variables of a group of images, popped by the sender.

    Attributes:
        bins: by layer, in the order of generation, (h, w, B, latent).
        mean: f(z), (B, 3, r, r).
        lengths: bits that z costs in each image, (B,): pushed with the prior less popped with the posterior.
        margin: distance of the closest parameter to a boundary of the grid.
    """

    bins: list[Integers]
    mean: Tensor
    lengths: Floats
    margin: float


@dataclass(frozen=True)
class Received:
    """The latent variables of one layer, popped by the receiver: top-down quantities, and bins (h, w, B, latent)."""

    own: TopDown
    bins: Integers


class LatentCoder:
    """Codes the latent variables of groups of images.

    Args:
        vae: the network, in float64.
        bits: logarithm of the number of bins.
        coded: (layers, latent), in the order of generation, the feature maps that are coded; None: all. The bins of the others are drawn by
            sender and receiver alike, which needs no bits and changes little where a map says next to nothing about the image.
    """

    def __init__(self, vae: VAEIAF, bits: int, coded: NDArray[np.bool_] | None = None) -> None:
        self.vae, self.bins = vae, Bins(bits)
        self._shapes = vae.latent_shapes
        self.coded = np.ones((len(self._shapes), vae.latent), bool) if coded is None else coded
        self._layers: list[StochasticLayer] = list(reversed(vae.layers))  # type: ignore[arg-type]

    @property
    def bits_needed(self) -> int:
        """Return how many bits the stack must hold for an image."""
        elements = sum(int(coded.sum()) * height * width for coded, (_, height, width) in zip(self.coded, self._shapes, strict=True))
        at_once = max(latent * height for latent, height, _ in self._shapes)
        return math.ceil(elements * (self.bins.entropy + 0.1)) + at_once * SLOT_BITS

    def mean_of_prior(self, count: int) -> Tensor:
        """Return f(z), (count, 3, r, r), with z at the mean of the prior in every layer."""
        h = self.vae.start(count)
        for layer in self._layers:
            own = layer.split(h)
            h = layer.merge(h, own.prior_mean, own.deterministic)
        return self.vae.finish(h)

    def pop_posterior(self, stack: Stack, x_uint8: Tensor, images: range, offset: int) -> Sent:
        """Pop z with the posterior.

        Args:
            stack: the stack.
            x_uint8: (B, 3, H, W).
            images: numbers of the images in the file.
            offset: place of the grid, see `round_to_grid`.

        Raises:
            Exhausted: the stack holds too few bits.
            NotFinite: the flow overflows.
        """
        h, encodings = self.vae.start(len(images)), self.vae.encode(x_uint8)
        bins, lengths, margin = [], np.zeros(len(images)), math.inf
        for index, layer in enumerate(self._layers):
            own = layer.split(h)
            popping = _Popping(stack, self.bins, self._drawn(index, images), self.coded[index])
            of_layer = _Layer(layer, own, encodings[-1 - index], offset)
            of_layer.run(popping)
            bins.append(popping.chosen)
            lengths, margin = lengths + popping.lengths, min(margin, of_layer.margin)
            h = layer.merge(h, self._z(popping.chosen, own), own.deterministic)
        return Sent(bins, self.vae.finish(h), lengths, margin)

    def push_prior(self, stack: Stack, bins: list[Integers]) -> None:
        """Push the bins of all layers with the prior."""
        for chosen, coded in reversed(list(zip(bins, self.coded, strict=True))):
            self.bins.push_prior(stack, chosen[..., coded].ravel())

    def pop_prior(self, stack: Stack, images: range) -> tuple[list[Received], Tensor]:
        """Pop z with the prior.

        Args:
            stack: the stack.
            images: numbers of the images in the file.

        Returns:
            The latent variables of each layer, in the order of generation, and f(z), (B, 3, r, r).

        Raises:
            Exhausted: the stack holds too few bits.
        """
        h, received = self.vae.start(len(images)), []
        for index, layer in enumerate(self._layers):
            own, chosen, coded = layer.split(h), self._drawn(index, images), self.coded[index]
            chosen[..., coded] = self.bins.pop_prior(stack, chosen[..., coded].size).reshape(chosen[..., coded].shape)
            received.append(Received(own, chosen))
            h = layer.merge(h, self._z(chosen, own), own.deterministic)
        return received, self.vae.finish(h)

    def push_posterior(self, stack: Stack, x_uint8: Tensor, received: list[Received], offset: int) -> None:
        """Push z with the posterior: the exact inverse of `pop_posterior`.

        Raises:
            Exhausted: the stack holds too few bits.
            NotFinite: the flow overflows.
        """
        encodings = self.vae.encode(x_uint8)
        for index in reversed(range(len(self._layers))):
            own, chosen = received[index].own, received[index].bins
            pushing = _Pushing(chosen, by_pixel(self._z(chosen, own)), self.coded[index])
            _Layer(self._layers[index], own, encodings[-1 - index], offset).run(pushing)
            for bins, mean, inverse_deviation in reversed(pushing.found):
                self.bins.push(stack, bins, mean, inverse_deviation)

    def _z(self, chosen: Integers, own: TopDown) -> Tensor:
        """Return z (B, latent, h, w) for bins (h, w, B, latent)."""
        middles = torch.from_numpy(self.bins.middles[chosen]).permute(2, 3, 0, 1).to(own.prior_mean)
        return own.prior_mean + torch.exp(own.prior_log_deviation) * middles

    def _drawn(self, index: int, images: range) -> Integers:
        """Return bins of a layer drawn from the prior, (h, w, B, latent), the same for sender and receiver."""
        latent, height, width = self._shapes[index]
        if self.coded[index].all():  # none of them will be used
            return np.zeros((height, width, len(images), latent), np.int64)
        drawn = [
            np.random.Philox(key=[_SHARED_KEY, image], counter=[0, index, 0, 0]).random_raw(height * width * latent) for image in images
        ]
        bins = self.bins.of_slots((np.stack(drawn) >> np.uint64(64 - SLOT_BITS)).astype(np.int64))
        return bins.reshape(len(images), height, width, latent).transpose(1, 2, 0, 3).copy()


class _Layer:
    """One layer for a group of images: prior, posterior and flow, as arrays (h, w, B, latent).

    Attributes:
        margin: distance of the closest parameter so far to a boundary of the grid.
    """

    def __init__(self, layer: StochasticLayer, own: TopDown, below: Encoding, offset: int) -> None:
        posterior = layer.posterior(own, below)
        self.prior_mean, self.prior_log_deviation = by_pixel(own.prior_mean), by_pixel(own.prior_log_deviation)
        self.mean, self.log_deviation = by_pixel(posterior.mean), by_pixel(posterior.log_deviation)
        self.offset, self.margin = offset, math.inf
        self._flow = CachedFlow(layer.flow, posterior.context)

    def run(self, elements: _Popping | _Pushing) -> None:
        """Run the flow over z: `elements` gets the posterior at each front, in units of the prior, and returns z there."""

        def choose(front: Front, flow_mean: Floats, flow_log_deviation: Floats) -> Floats:
            prior = front.of(self.prior_mean), np.exp(front.of(self.prior_log_deviation))
            mean = ((front.of(self.mean) - flow_mean) * np.exp(-flow_log_deviation) - prior[0]) / prior[1]
            log_deviation = front.of(self.log_deviation) - flow_log_deviation - front.of(self.prior_log_deviation)
            z = elements.at(front, self._rounded(mean, -64.0, 64.0), exp(-self._rounded(log_deviation, -20.0, 8.0)), prior)
            return z * np.exp(flow_log_deviation) + flow_mean

        with np.errstate(over="ignore", invalid="ignore"):  # `_rounded` notices
            self._flow.run(choose)

    def _rounded(self, values: Floats, least: float, most: float) -> Floats:
        values = np.minimum(np.maximum(values, least), most)
        margin = float(distance_to_boundary(values, self.offset).min())
        if math.isnan(margin):
            raise NotFinite
        self.margin = min(self.margin, margin)
        return round_to_grid(values, self.offset)


class _Popping:
    """Elements of z that are popped.

    Attributes:
        chosen: bins (h, w, B, latent); at first those of the feature maps that are not coded.
        lengths: bits that z costs in each image, (B,).
    """

    def __init__(self, stack: Stack, bins: Bins, chosen: Integers, coded: NDArray[np.bool_]) -> None:
        self._stack, self._bins, self._coded = stack, bins, coded
        self.chosen, self.lengths = chosen, np.zeros(chosen.shape[2])

    def at(self, front: Front, mean: Floats, inverse_deviation: Floats, prior: tuple[Floats, Floats]) -> Floats:
        """Pop z at a front, (P, B, maps)."""
        chosen, coded = front.of(self.chosen), np.broadcast_to(self._coded[front.maps], mean.shape)
        costs = np.zeros(mean.shape)
        chosen[coded], popped = self._bins.pop(self._stack, mean[coded], inverse_deviation[coded])
        costs[coded] = self._bins.costs[chosen[coded]] - popped
        self.lengths += costs.sum((0, 2))
        front.set(self.chosen, chosen)
        return prior[0] + prior[1] * self._bins.middles[chosen]


class _Pushing:
    """Elements of z that are known and will be pushed.

    Attributes:
        found: bins, means and inverse deviations, (N,) each, front by front, as the sender has popped them.
    """

    def __init__(self, chosen: Integers, z: Floats, coded: NDArray[np.bool_]) -> None:
        self._chosen, self._z, self._coded = chosen, z, coded
        self.found: list[tuple[Integers, Floats, Floats]] = []

    def at(self, front: Front, mean: Floats, inverse_deviation: Floats, prior: tuple[Floats, Floats]) -> Floats:
        """Return z at a front, (P, B, maps)."""
        coded = np.broadcast_to(self._coded[front.maps], mean.shape)
        self.found.append((front.of(self._chosen)[coded], mean[coded], inverse_deviation[coded]))
        return front.of(self._z)
