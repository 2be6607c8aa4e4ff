"""Code the latent variables of the ResNet VAE with bits back.

The sender pops z from the stack with the posterior as distribution and pushes it with the prior, so that it costs the KL divergence alone.
The receiver pops z with the prior and, once it has the image, pushes z with the posterior: every bit is back where it was.

z, in units of its prior, falls into one of 2^b bins of equal mass under the prior; the middle of a bin stands for all of it. Given the
latent values before it in the order of the flow, an element of z is Gaussian under the posterior too. Elements that do not depend on each
other are popped together: each takes a slot of 24 bits, which determines its bin, and the number of the slot inside the bin, uniformly
distributed, is pushed back.

Source: Townsend et al. (2019), Practical lossless compression with latent variables using bits back coding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from agave.codec.entropy import Floats, Integers, Stack, distance_to_boundary, exp, normal_cdf, round_to_grid
from agave.codec.flow import CachedFlow, Place, by_pixel
from agave.errors import UserError
from agave.models.vae_iaf import VAEIAF, Posterior, StochasticLayer, TopDown

SLOT_BITS = 24
_REMAINDER_BITS = 32
_SHARED_KEY = 0x4147_5645  # of the bins that sender and receiver draw alike


class Bins:
    """Bins of equal mass under a standard normal, and the slots that they have under another normal distribution.

    Two slots belong to each bin whatever the distribution: slots 2 u and 2 u + 1 to bin u. The others, in the same order, are divided
    by the distribution.

    Args:
        bits: logarithm b of the number of bins.
    """

    def __init__(self, bits: int) -> None:
        self.count = 1 << bits
        self._divided = float((1 << SLOT_BITS) - 2 * self.count)
        quantile = NormalDist().inv_cdf
        # rounded to 2^-32, because the logarithm inside may differ in its last digit from machine to machine
        inner = [round(quantile(u / self.count) * 2**32) / 2**32 for u in range(1, self.count)]
        self.middles = np.array([round(quantile((u + 0.5) / self.count) * 2**32) / 2**32 for u in range(self.count)])
        self._edges = np.array([-np.inf, *inner, np.inf])

    def limits(self, bins: Integers, mean: Floats, inverse_deviation: Floats) -> Integers:
        """Return how many of the divided slots lie below the start and below the end of each bin: (N,) -> (2, N)."""
        edges = self._edges[np.stack((bins, bins + 1))]
        return np.floor(normal_cdf((edges - mean) * inverse_deviation) * self._divided + 0.5).astype(np.int64)

    def find(self, slots: Integers, mean: Floats, inverse_deviation: Floats) -> tuple[Integers, Integers]:
        """Return the bin that each slot (N,) belongs to, and its `limits`."""
        divided = slots - 2 * self.count
        noise = ndtri((np.maximum(divided, 0) + 0.5) / self._divided)
        guess = (ndtr(mean + noise / inverse_deviation) * self.count).astype(np.int64).clip(0, self.count - 1)
        bins = np.where(divided < 0, slots // 2, guess)
        limits = self.limits(bins, mean, inverse_deviation)
        wrong = (divided >= 0) & ((divided < limits[0]) | (divided >= limits[1]))
        if wrong.any():
            bins[wrong] = self._bisect(divided[wrong], mean[wrong], inverse_deviation[wrong])
            limits[:, wrong] = self.limits(bins[wrong], mean[wrong], inverse_deviation[wrong])
        return bins, limits

    def _bisect(self, divided: Integers, mean: Floats, inverse_deviation: Floats) -> Integers:
        bins, step = np.zeros_like(divided), self.count
        while step > 1:
            step //= 2
            bins += np.where(self.limits(bins + step, mean, inverse_deviation)[0] <= divided, step, 0)
        return bins

    def numbers(self, slots: Integers, bins: Integers, limits: Integers) -> Integers:
        """Return the number of each slot inside its bin, from 0."""
        return np.where(slots < 2 * self.count, slots - 2 * bins, slots - 2 * self.count - limits[0] + 2)

    def slots(self, numbers: Integers, bins: Integers, limits: Integers) -> Integers:
        """Return slots from their bins and their numbers inside these."""
        return np.where(numbers < 2, 2 * bins + numbers, 2 * self.count + limits[0] + numbers - 2)


@dataclass
class _Layer:
    """One layer for a group of images, as arrays (h, w, B, latent).

    `mean` and `log_deviation` are those of the posterior before the flow.
    """

    prior_mean: Floats
    prior_log_deviation: Floats
    mean: Floats
    log_deviation: Floats
    offset: int
    margin: float = math.inf

    @classmethod
    def of(cls, own: TopDown, posterior: Posterior, offset: int) -> _Layer:
        """Rearrange what the network has computed."""
        tensors = (own.prior_mean, own.prior_log_deviation, posterior.mean, posterior.log_deviation)
        return cls(*(by_pixel(one) for one in tensors), offset)

    def gaussian(self, place: Place, flow_mean: Floats, flow_log_deviation: Floats) -> tuple[Floats, Floats]:
        """Return mean and 1 / deviation of the posterior of z, where the prior is a standard normal, (P, B, maps)."""
        mean = (place.of(self.mean) - flow_mean) * np.exp(-flow_log_deviation)
        mean = (mean - place.of(self.prior_mean)) * np.exp(-place.of(self.prior_log_deviation))
        log_deviation = place.of(self.log_deviation) - flow_log_deviation - place.of(self.prior_log_deviation)
        rounded = []
        for values, least, most in ((mean, -64.0, 64.0), (log_deviation, -20.0, 8.0)):
            values = np.minimum(np.maximum(values, least), most)
            margin = float(distance_to_boundary(values, self.offset).min())
            if math.isnan(margin):
                raise UserError("the model returns a latent variable that is not a number; accepted: a trained model. Nothing was written")
            self.margin = min(self.margin, margin)
            rounded.append(round_to_grid(values, self.offset))
        return rounded[0], exp(-rounded[1])


@dataclass
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


@dataclass
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
        self.vae, self.bits, self._bins = vae, bits, Bins(bits)
        self._shapes = vae.latent_shapes
        self.coded = np.ones((len(self._shapes), vae.latent), bool) if coded is None else coded
        self._layers: list[StochasticLayer] = list(reversed(vae.layers))  # type: ignore[arg-type]

    @property
    def bits_needed(self) -> int:
        """Return how many bits the stack must hold for an image."""
        elements = sum(int(coded.sum()) * height * width for coded, (_, height, width) in zip(self.coded, self._shapes, strict=True))
        at_once = max(latent * height for latent, height, _ in self._shapes)
        return math.ceil(elements * (self.bits + 0.1)) + at_once * SLOT_BITS

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
            UserError: the network returns a value that is not a number.
        """
        encodings = self.vae.encode(x_uint8)
        h, sent = self.vae.start(len(images)), Sent([], torch.empty(0), np.zeros(len(images)), math.inf)
        for index, layer in enumerate(self._layers):
            own = layer.split(h)
            posterior = layer.posterior(own, encodings[-1 - index])
            quantities, coded, bins = _Layer.of(own, posterior, offset), self.coded[index], self._drawn(index, images)

            def choose(place: Place, flow_mean: Floats, flow_log_deviation: Floats) -> Floats:
                mean, inverse_deviation = quantities.gaussian(place, flow_mean, flow_log_deviation)
                chosen, here = place.of(bins), np.broadcast_to(coded[place.maps], mean.shape)
                chosen[here], frequencies = self._pop(stack, mean[here], inverse_deviation[here])
                lengths = np.zeros(mean.shape)
                lengths[here] = self.bits - SLOT_BITS + np.log2(frequencies)
                sent.lengths += lengths.sum((0, 2))
                place.set(bins, chosen)
                z = place.of(quantities.prior_mean) + np.exp(place.of(quantities.prior_log_deviation)) * self._bins.middles[chosen]
                return z * np.exp(flow_log_deviation) + flow_mean

            CachedFlow(layer.flow, posterior.context).run(choose)
            sent.margin = min(sent.margin, quantities.margin)
            sent.bins.append(bins)
            h = layer.merge(h, self._z(bins, own), own.deterministic)
        sent.mean = self.vae.finish(h)
        return sent

    def push_prior(self, stack: Stack, bins: list[Integers]) -> None:
        """Push the bins of all layers with the prior."""
        for chosen, coded in reversed(list(zip(bins, self.coded, strict=True))):
            stack.push_raw(chosen[..., coded].ravel()[::-1].tolist(), self.bits)

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
            own, bins, coded = layer.split(h), self._drawn(index, images), self.coded[index]
            bins[..., coded] = np.reshape(stack.pop_raw(bins[..., coded].size, self.bits), bins[..., coded].shape)
            received.append(Received(own, bins))
            h = layer.merge(h, self._z(bins, own), own.deterministic)
        return received, self.vae.finish(h)

    def push_posterior(self, stack: Stack, x_uint8: Tensor, received: list[Received], offset: int) -> None:
        """Push z with the posterior: the exact inverse of `pop_posterior`.

        Raises:
            Exhausted: the stack holds too few bits.
            UserError: the network returns a value that is not a number.
        """
        encodings = self.vae.encode(x_uint8.to(self.vae.top.device))
        for index in reversed(range(len(self._layers))):
            layer, own, bins, coded = self._layers[index], received[index].own, received[index].bins, self.coded[index]
            posterior = layer.posterior(own, encodings[-1 - index])
            quantities, z = _Layer.of(own, posterior, offset), by_pixel(self._z(bins, own))
            popped: list[tuple[Integers, Floats, Floats]] = []  # as the sender did: bins, means, inverse deviations

            def known(place: Place, flow_mean: Floats, flow_log_deviation: Floats) -> Floats:
                here = np.broadcast_to(coded[place.maps], flow_mean.shape)
                mean, inverse_deviation = quantities.gaussian(place, flow_mean, flow_log_deviation)
                popped.append((place.of(bins)[here], mean[here], inverse_deviation[here]))
                return place.of(z) * np.exp(flow_log_deviation) + flow_mean

            CachedFlow(layer.flow, posterior.context).run(known)
            for one in reversed(popped):
                self._push(stack, *one)

    def _pop(self, stack: Stack, mean: Floats, inverse_deviation: Floats) -> tuple[Integers, Integers]:
        """Pop bins (N,) with normal distributions, and return them with their frequencies."""
        slots = np.array(stack.pop_raw(len(mean), SLOT_BITS), np.int64)
        bins, limits = self._bins.find(slots, mean, inverse_deviation)
        frequencies, numbers = 2 + limits[1] - limits[0], self._bins.numbers(slots, bins, limits)
        starts = _starts(numbers, frequencies)
        stack.push(starts.tolist(), (_starts(numbers + 1, frequencies) - starts).tolist(), _REMAINDER_BITS)
        return bins, frequencies

    def _push(self, stack: Stack, bins: Integers, mean: Floats, inverse_deviation: Floats) -> None:
        """Push bins: the inverse of `_pop`."""
        limits = self._bins.limits(bins, mean, inverse_deviation)
        backwards = (2 + limits[1] - limits[0])[::-1].tolist()

        def find(index: int, slot: int) -> tuple[int, int, int]:
            number = ((slot + 1) * backwards[index] - 1) >> _REMAINDER_BITS
            start = (number << _REMAINDER_BITS) // backwards[index]
            return number, start, ((number + 1) << _REMAINDER_BITS) // backwards[index] - start

        numbers = np.array(stack.pop(len(bins), _REMAINDER_BITS, find)[::-1], np.int64)
        stack.push_raw(self._bins.slots(numbers, bins, limits)[::-1].tolist(), SLOT_BITS)

    def _z(self, bins: Integers, own: TopDown) -> Tensor:
        """Return z (B, latent, h, w) for bins (h, w, B, latent)."""
        middles = torch.from_numpy(self._bins.middles[bins]).permute(2, 3, 0, 1).to(own.prior_mean)
        return own.prior_mean + torch.exp(own.prior_log_deviation) * middles

    def _drawn(self, index: int, images: range) -> Integers:
        """Return bins of a layer drawn from the prior, (h, w, B, latent), the same for sender and receiver."""
        latent, height, width = self._shapes[index]
        if self.coded[index].all():
            return np.zeros((height, width, len(images), latent), np.int64)
        words = [np.random.Philox(key=[_SHARED_KEY, image], counter=[0, index, 0, 0]).random_raw(height * width * latent) for image in images]
        bins = (np.stack(words) >> np.uint64(64 - self.bits)).astype(np.int64)
        return bins.reshape(len(images), height, width, latent).transpose(1, 2, 0, 3).copy()


def _starts(numbers: Integers, among: Integers) -> Integers:
    """Return where on a scale of 2^32 equal parts begin: floor(2^32 number / among)."""
    return ((numbers.astype(np.uint64) << np.uint64(_REMAINDER_BITS)) // among.astype(np.uint64)).astype(np.int64)
