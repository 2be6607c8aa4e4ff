"""Convolutional DRAW (Gregor et al. 2016): latent variables in steps, each of which adds to a canvas."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from agave.config import Model, Sample
from agave.config_networks import ConvDRAWModel, SystemBlock
from agave.models.conv_lstm import ConvLSTM, LSTMState
from agave.models.gaussian import Gaussian, GaussianConv, gaussian_log_density
from agave.models.interface import LikelihoodModel, Noise, Terms, scale_to_unit
from agave.models.layers import Checkpointed, data_dependent_initialisation, full_precision
from agave.models.vae_iaf import as_image
from agave.random_numbers import PIXELS_GIVEN_PRIOR, POSTERIOR, PRIOR, KeyedNumbers, RandomNumbers, StepNumbers

LEVELS_PER_UNIT = 127.5
"""The canvas is in units of [-1, 1], as `scale_to_unit` makes them; the likelihood is in colour levels."""

LEAST_PIXEL_DEVIATION = 0.05
"""Of the Gaussian of a sub-pixel, colour levels; below it a constant patch would be chased to no end."""


class DrawingStep(Checkpointed):
    """One step: the encoder looks at the image and at what the canvas lacks, and the decoder adds to the canvas.

    Args:
        hidden: feature maps of either LSTM.
        latent: latent feature maps.
        kernel: height and width of the kernels, odd.
    """

    def __init__(self, hidden: int, latent: int, kernel: int) -> None:
        super().__init__()
        self.encoder = ConvLSTM(6, hidden, hidden, kernel)
        self.posterior = GaussianConv(hidden, latent, kernel, init_scale=0.3)
        self.prior = GaussianConv(hidden, latent, kernel, init_scale=0.1)
        self.decoder = ConvLSTM(6, latent, hidden, kernel)
        # much smaller than that of the posterior: else the noise of z costs so much at first that the decoder learns to ignore z
        self.write = GaussianConv(hidden, 4 * 3, kernel, init_scale=0.03)

    def forward(
        self, x: Tensor | None, canvas: Tensor, encoder: LSTMState, decoder: LSTMState, noise: Tensor
    ) -> tuple[Tensor, LSTMState, LSTMState, Tensor]:
        """Return canvas, both states and the KL of this step: sampled, log q(z) - log p(z), and analytic, nats (2, B).

        Args:
            x: (B, 3, H, W) in [-1, 1]; None draws z from the prior, and the state of the encoder stays.
            canvas: (B, 6, H, W), means and log-deviations.
            encoder: state of the encoder's LSTM.
            decoder: state of the decoder's LSTM.
            noise: (B, latent, H / 2, W / 2), standard normal.
        """
        prior = self.prior(decoder.h)
        if x is None:
            z, kl = prior.draw(noise), noise.new_zeros(2, len(noise))
        else:
            encoder = self.encoder(torch.cat((x, x - canvas[:, :3]), dim=1), decoder.h, encoder)
            posterior = self.posterior(encoder.h)
            z = posterior.draw(noise)
            kl = torch.stack((posterior.log_prob(z) - prior.log_prob(z), posterior.kl(prior).flatten(1).sum(1)))
        decoder = self.decoder(canvas, z, decoder)
        with full_precision(canvas):
            added = torch.cat([F.pixel_shuffle(maps, 2) for maps in self.write(decoder.h)], dim=1)  # (B, 12, H / 2, W / 2) -> (B, 3, H, W)
            canvas = canvas + added
        return canvas, encoder, decoder, kl


class ConvolutionalDRAW(LikelihoodModel):
    """Convolutional DRAW: p(x | z_1, ..., z_T) is a Gaussian per sub-pixel, whose mean and deviation are the canvas after T steps.

    Args:
        sizes: sizes, the block `table1.conv_draw` of params.yaml.
        image_size: height and width of x, pixels; even.

    Source: Gregor et al. (2016).
    """

    # PAPER: The text of the paper was not at hand. The wiring is our reading; sizes, kernels and training of its CIFAR-10 model are open.
    system = "conv_draw"
    bound = "elbo"

    def __init__(self, sizes: ConvDRAWModel, image_size: int) -> None:
        super().__init__(image_size)
        self.steps, self.latent = sizes.steps, sizes.latent
        self.step = DrawingStep(sizes.hidden, sizes.latent, sizes.kernel)
        self.first_states = nn.Parameter(torch.zeros(4, sizes.hidden))  # output and memory of the encoder, and of the decoder
        self.first_canvas = nn.Parameter(torch.zeros(6))

    @classmethod
    def from_options(
        cls, options: Model, image_size: int, *, resolution: int | None = None, levels: int = 256, sizes: SystemBlock | None = None
    ) -> ConvolutionalDRAW:
        """Make an untrained model; it has no auxiliary image."""
        assert isinstance(sizes, ConvDRAWModel)
        return cls(sizes, image_size)

    def draw_noise(self, batch: int, numbers: RandomNumbers) -> Noise:
        """Return the noise of the latent variables of every step, and that which makes 8-bit values continuous."""
        size = self.image_size
        uniform = numbers.uniform(self.steps, (batch, 3, size, size), self.first_canvas)
        return {"latents": self.latent_noise(batch, numbers), "dequantisation": [uniform]}

    def latent_noise(self, batch: int, numbers: RandomNumbers) -> list[Tensor]:
        """Draw standard normal noise (B, latent, H / 2, W / 2) for each step."""
        shape = (batch, self.latent, self.image_size // 2, self.image_size // 2)
        return [numbers.normal(step, shape, self.first_canvas) for step in range(self.steps)]

    def encode(self, x_uint8: Tensor) -> Tensor:
        """Return the image in [-1, 1], (B, 3, H, W); all that the encoder makes of it depends on the noise."""
        return scale_to_unit(x_uint8, self.first_canvas.dtype)

    def draw(self, x: Tensor | None, noise: list[Tensor]) -> tuple[Gaussian, Tensor]:
        """Run the steps.

        Args:
            x: (B, 3, H, W) in [-1, 1], for z from the posterior; None: z from the prior.
            noise: result of `latent_noise`; as many steps are made.

        Returns:
            The Gaussian of every sub-pixel, (B, 3, H, W), in colour levels: the value v occupies [v, v + 1). The KL of each step,
            sampled and analytic, nats (2, B, T).
        """
        batch, size = len(noise[0]), self.image_size
        states = self.first_states.view(4, 1, -1, 1, 1).repeat(1, batch, 1, size // 2, size // 2)
        encoder, decoder = LSTMState(states[0], states[1]), LSTMState(states[2], states[3])
        canvas = self.first_canvas.view(1, 6, 1, 1).repeat(batch, 1, size, size)
        kl = []
        for one in noise:
            canvas, encoder, decoder, kl_of_step = self.step.again(self.step, x, canvas, encoder, decoder, one)
            kl.append(kl_of_step)
        mean, log_deviation = self._for_likelihood(canvas).chunk(2, dim=1)
        log_deviation = (log_deviation + math.log(LEVELS_PER_UNIT)).clamp(min=math.log(LEAST_PIXEL_DEVIATION))
        return Gaussian(LEVELS_PER_UNIT * mean + 128, log_deviation), torch.stack(kl, dim=2)

    def terms(self, encoding: Tensor, x_uint8: Tensor, y_uint8: Tensor | None, noise: Noise) -> Terms:
        """Return the KL, and the log-density of x plus noise in [0, 1): its mean over the noise is at most log p(x | z)."""
        pixels, kl_of_steps = self.draw(encoding, noise["latents"])
        sampled, analytic = kl_of_steps.sum(2)  # importance weights need the former; the latter has less noise
        value = x_uint8.to(pixels.mean.dtype) + noise["dequantisation"][0]
        density = gaussian_log_density(value, *pixels)  # (B, 3, H, W)
        return Terms(sampled, density.sum((1, 2, 3)), None, analytic.sum(), density.detach().sum(1))

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor | None = None, pretrained: Collection[str] = ()) -> None:
        """Start the canvas at mean and deviation of each colour, and the layers at what the first step shows them."""
        x = self.encode(x_uint8)
        self.first_canvas.copy_(torch.cat((x.mean((0, 2, 3)), torch.log(x.std((0, 2, 3)) + 1 / LEVELS_PER_UNIT))))
        with data_dependent_initialisation(self):  # of one step, because all steps share their weights
            self.draw(x, self.latent_noise(len(x), StepNumbers())[:1])

    @torch.inference_mode()
    def reconstruct(self, images: NDArray[np.uint8] | Tensor, seed: int = 0) -> Tensor:
        """Return the mean of the canvas with z drawn from the posterior, uint8 (N, 3, H, W)."""
        x_uint8 = self.check_images(images)
        return self._mean_image(x_uint8, range(len(x_uint8)), seed)

    @torch.inference_mode()
    def sample(self, count: int, *, seed: int, first: int = 0, options: Sample | None = None, label: str | None = None) -> Tensor:
        """Draw z from the prior step by step, then x from its Gaussian, rounded down: uint8 (count, 3, H, W)."""
        return self._from_prior(range(first, first + count), seed)[1]

    @torch.inference_mode()
    def figure_images(self, x_uint8: Tensor, *, first: int, options: Sample, label: str | None = None) -> dict[str, Tensor]:
        """Make "original", "reconstruction" and "prior" (the mean of the canvas), and "prior_sample", drawn given that of the prior."""
        images = range(first, first + len(x_uint8))
        mean, drawn = self._from_prior(images, options.seed)
        return {
            "original": x_uint8,
            "reconstruction": self._mean_image(x_uint8, images, options.seed),
            "prior": mean,
            "prior_sample": drawn,
        }

    def _mean_image(self, x_uint8: Tensor, images: range, seed: int) -> Tensor:
        noise = self.latent_noise(len(images), KeyedNumbers(seed, POSTERIOR, images))
        return as_image(self.draw(self.encode(x_uint8), noise)[0].mean)

    def _from_prior(self, images: range, seed: int) -> tuple[Tensor, Tensor]:
        """Return mean images and images drawn given them."""
        pixels, _ = self.draw(None, self.latent_noise(len(images), KeyedNumbers(seed, PRIOR, images)))
        noise = KeyedNumbers(seed, PIXELS_GIVEN_PRIOR, images).normal(0, tuple(pixels.mean.shape), pixels.mean)
        return as_image(pixels.mean), as_image(pixels.draw(noise))
