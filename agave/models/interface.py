"""The interface of everything that is trained. The training loop, evaluation, sampling and tables use nothing else of a system."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agave.auxiliary_image import auxiliary_image
from agave.config import Model, Sample
from agave.config_networks import SystemBlock
from agave.errors import UserError
from agave.models.layers import Checkpointed
from agave.random_numbers import POSTERIOR, KeyedNumbers, RandomNumbers, StepNumbers
from agave.runtime.checkpoints import load_weights

Noise = Mapping[str, list[Tensor]]
"""All random numbers of a forward pass, by purpose, for example {"latents": [one tensor per layer]}."""

Bound = Literal["exact", "dequantised", "elbo"]
"""The kind of log-likelihood: exact, exact for dequantised images only, or a lower bound with latent variables."""


@dataclass(frozen=True)
class Terms:
    """The unreduced terms of one batch.

    Attributes:
        kl: (B,) sampled KL of the posterior from the prior, log q(z|x) - log p(z), nats per image; zeros without latent variables.
        log_prob_x: (B,) log p(x | x_<, f(z)), nats per image; None for a system that does not model x itself.
        log_prob_y: (B,) log p(y | f(z)), nats per image; None for a system without an auxiliary image.
        kl_objective: () KL of the objective, nats summed over the batch: with free bits, or a sum of analytic KL divergences; otherwise
            the sum of `kl`.
        log_prob_pixels: (B, H, W) summands of log_prob_x, one for the three channels of each pixel, without gradients; None for a
            system whose likelihood is no sum over pixels.
    """

    kl: Tensor
    log_prob_x: Tensor | None
    log_prob_y: Tensor | None
    kl_objective: Tensor
    log_prob_pixels: Tensor | None = None

    @property
    def log_prob(self) -> Tensor:
        """One-sample bound on the log-likelihood (exact without latent variables), (B,) nats: free of the KL weight and of y.

        Source: AGAVE paper, Eq. 6; Eq. 3 for the VAE alone.
        """
        # PAPER: The footnote says that Figures 4 and 5 show "the bound in Eq. 7". A bound on x has neither the KL weight nor y, so
        # we read this as the one-sample bound split into its terms.
        reconstruction = self.log_prob_x if self.log_prob_x is not None else self.log_prob_y
        assert reconstruction is not None, "every system has a likelihood"
        return reconstruction - self.kl


def scale_to_unit(x_uint8: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map 8-bit values to [-1, 1]: (v - 127.5) / 127.5."""
    return (x_uint8.to(dtype) - 127.5) / 127.5


class LikelihoodModel(nn.Module):
    """A model of images with a log-likelihood or a lower bound of it.

    Attributes:
        system: its name in `agave.models.SYSTEMS`.
        bound: kind of its log-likelihood: exact, dequantised or elbo.
        likelihood_of: "x" if the bound is on the likelihood of the image, "y" if it is on that of y because x is not modelled.
        parts: names of the sub-networks that can be pretrained alone.
        init_on_all_images: whether `initialise` is given all training images and not only the first ones.
        unused_parameters: whether some parameters never get a gradient, which data-parallel training must know.
        image_size: height and width of x, pixels.
        resolution: height and width of the auxiliary image y, pixels.
        likelihood_dtype: likelihoods are computed in at least this dtype; evaluation sets float64.
    """

    system: ClassVar[str]
    bound: ClassVar[Bound]
    likelihood_of: ClassVar[Literal["x", "y"]] = "x"
    parts: ClassVar[tuple[str, ...]] = ()
    init_on_all_images: ClassVar[bool] = False
    unused_parameters: ClassVar[bool] = False

    def __init__(self, image_size: int, resolution: int | None = None) -> None:
        super().__init__()
        self.image_size, self.resolution = image_size, resolution or image_size
        self.likelihood_dtype = torch.float32

    @classmethod
    @abstractmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> LikelihoodModel:
        """Make an untrained model.

        Args:
            options: sizes and choices, the block `model` of params.yaml.
            image_size: height and width of x, pixels.
            resolution: height and width of y, pixels; None: those of x.
            levels: colour levels of y.
            sizes: the block of `table1` that has the name of the system; None for a system that has none.
        """

    def forward(self, x_uint8: Tensor, y_uint8: Tensor | None = None, noise: Noise | None = None) -> Terms:
        """Return the terms of the objective for a batch, unreduced.

        Args:
            x_uint8: (B, 3, H, W), integers 0 to 255.
            y_uint8: (B, 3, r, r), the auxiliary image before quantization; a system without one ignores it.
            noise: result of `draw_noise`; None draws it from torch's global generator.

        Returns:
            Nats per image.
        """
        noise = self.draw_noise(len(x_uint8), StepNumbers()) if noise is None else noise
        return self.terms(self.encode(x_uint8), x_uint8, y_uint8, noise)

    def encode(self, x_uint8: Tensor) -> Any:
        """Return what does not depend on the noise, as a tree of tensors of B rows; all importance samples share it."""
        return None

    @abstractmethod
    def terms(self, encoding: Any, x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return the terms of `forward`, computed from the encoding."""

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return all random numbers of a forward pass of `batch` images."""
        return {}

    @abstractmethod
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Initialise weights from data.

        Args:
            x_uint8: (B, 3, H, W).
            y_uint8: (B, 3, r, r); a system without an auxiliary image ignores it.
            pretrained: parts that keep their weights.
        """

    @abstractmethod
    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw images.

        Args:
            count: number of images.
            seed: seed of the noise, keyed by image: an image does not depend on how many are drawn at once.
            first: index of the first one.
            options: rounding and temperature, the block `sample` of params.yaml; None: the exact distribution of the model.
            label: name under which progress is shown; None shows none.

        Returns:
            uint8 (count, 3, H, W).
        """

    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make the images that the figures show.

        Args:
            x_uint8: (B, 3, H, W), test images.
            first: index of the first one in the test set, which keys the noise.
            options: the block `sample` of params.yaml.
            label: name under which progress is shown; None shows none.

        Returns:
            {name: uint8 (B, 3, height, width)}, "original" and "prior_sample" at least.
        """
        drawn = self.sample(len(x_uint8), seed=options.seed, first=first, options=options, label=label and f"{label} prior")
        return {"original": x_uint8, "prior_sample": drawn}

    def reconstruct(self, images: NDArray[np.uint8] | Tensor, seed: int = 0) -> Tensor:
        """Return f(z) with z drawn from the posterior, or, for a system without y, an image drawn from p(x|z).

        Args:
            images: uint8 (N, H, W, 3) array or (N, 3, H, W) tensor.
            seed: seed of the noise, keyed by image.

        Returns:
            uint8 (N, 3, r, r), the mean image of p(y|z), or (N, 3, H, W).

        Raises:
            UserError: the system has no latent variables, or the images do not fit.
        """
        from agave.models import SYSTEMS

        accepted = [name for name, system in SYSTEMS.items() if system.reconstruct is not LikelihoodModel.reconstruct]
        raise UserError(f"{self.system}: has no latent variables to reconstruct from; accepted: {', '.join(accepted)}")

    def log_prob(self, images: NDArray[np.uint8] | Tensor, seed: int = 0, batch: int = 64) -> Tensor:
        """Return the log-likelihood of images, or its one-sample bound (see `bound`).

        Args:
            images: uint8 (N, H, W, 3) array or (N, 3, H, W) tensor.
            seed: seed of the noise, keyed by image.
            batch: images per forward pass; does not change the result beyond rounding.

        Returns:
            (N,) nats, float64. Divide by -3 H W log(2) for bits per dimension (`agave.likelihoods.bits_per_dim`).

        Raises:
            UserError: the images do not fit.
        """
        x_uint8 = self.check_images(images)
        before, was_training = self.likelihood_dtype, self.training
        self.eval()
        self.likelihood_dtype = torch.float64
        try:
            with torch.inference_mode():
                found = [self._log_prob(x_uint8[start : start + batch], seed, start) for start in range(0, len(x_uint8), batch)]
        finally:
            self.likelihood_dtype = before
            self.train(was_training)
        return torch.cat(found)

    def _log_prob(self, x_uint8: Tensor, seed: int, first: int) -> Tensor:
        noise = self.draw_noise(len(x_uint8), KeyedNumbers(seed, POSTERIOR, range(first, first + len(x_uint8))))
        return self(x_uint8, auxiliary_image(x_uint8, self.resolution), noise).log_prob.double().cpu()  # type: ignore[no-any-return]

    def check_images(self, images: NDArray[np.uint8] | Tensor) -> Tensor:
        """Return images as a uint8 (N, 3, H, W) tensor on the device of the model, if they fit.

        Raises:
            UserError: type or shape do not fit.
        """
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2) if isinstance(images, np.ndarray) and images.ndim == 4 else images
        size = self.image_size
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8 or tensor.shape[1:] != (3, size, size) or not len(tensor):
            raise UserError(
                f"images are {images.dtype} {tuple(images.shape)}; "
                f"accepted: uint8, an array (N, {size}, {size}, 3) or a tensor (N, 3, {size}, {size}) with N at least 1"
            )
        return tensor.contiguous().to(next(self.parameters()).device)

    def load_pretrained(self, part: str, tensors: Mapping[str, Tensor], source: str | Path) -> None:
        """Copy the weights of a part that was pretrained alone.

        Args:
            part: one of `parts`.
            tensors: tensors of the pretrained model, by name; those of other parts are ignored.
            source: origin of the tensors, for messages.

        Raises:
            UserError: the weights are of another architecture.
        """
        module = getattr(self, part)
        own = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
        added = {name: value for name, value in module.state_dict().items() if self.is_added(f"{part}.{name}")}
        load_weights(module, added | own, source)

    def is_added(self, name: str) -> bool:
        """Return whether a pretrained part lacks this weight, which then keeps its new value."""
        return False

    def needs_whole_batch(self) -> str | None:
        """Return the parameter, with its value, that needs the mean over a whole batch at once, or None."""
        return None

    def checkpoint_activations(self, wanted: bool) -> None:
        """Compute the activations of every layer again in the backward pass: half the memory, a third more arithmetic."""
        for module in self.modules():
            if isinstance(module, Checkpointed):
                module.checkpointing = wanted

    def _for_likelihood(self, outputs: Tensor) -> Tensor:
        return outputs.to(torch.promote_types(outputs.dtype, self.likelihood_dtype))
