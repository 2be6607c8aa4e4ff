"""AGAVE: a VAE whose decoder output f(z) reconstructs y and conditions a PixelCNN++ that models x."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agave.bounds import Terms, free_bits
from agave.config import Model
from agave.likelihoods import discretized_logistic_log_prob, mixture_log_prob
from agave.models.layers import Checkpointed
from agave.models.pixelcnn_pp import PixelCNNpp
from agave.models.vae_iaf import VAE, BottomUp, Noise


def scale_to_unit(x_uint8: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """8-bit values to [-1, 1]: (v - 127.5) / 127.5."""
    return (x_uint8.to(dtype) - 127.5) / 127.5


class AGAVE(nn.Module):
    """Both networks, or one of them alone: the same class is pretrained, joined and evaluated.

    Args:
        options: sizes and choices, the block `model` of params.yaml.
        image_size: height and width of x, pixels.
        resolution: height and width of y, pixels.
        levels: colour levels b of y.
        has_vae: whether there are latent variables.
        has_pixelcnn_pp: whether there is an autoregressive decoder; with a VAE it is conditioned on f(z).

    Source: AGAVE paper, section 3.2, Figure 2.
    """

    def __init__(
        self, options: Model, image_size: int, *, resolution: int, levels: int = 256, has_vae: bool = True, has_pixelcnn_pp: bool = True
    ) -> None:
        super().__init__()
        self.options, self.image_size, self.levels = options, image_size, levels
        self.likelihood_dtype = torch.float32  # at least; evaluation sets float64
        vae, pixelcnn_pp = options.vae, options.pixelcnn_pp
        self.vae = (
            VAE(image_size, resolution, vae.depth, vae.blocks, vae.hidden, vae.latent, published_init=vae.published_init)
            if has_vae
            else None
        )
        self.pixelcnn_pp = (
            PixelCNNpp(
                pixelcnn_pp.filters,
                pixelcnn_pp.resnets,
                pixelcnn_pp.mixtures,
                pixelcnn_pp.resolutions,
                feature_channels=3 if has_vae else 0,
                stream_channels=pixelcnn_pp.stream_channels,
                dropout=pixelcnn_pp.dropout,
            )
            if has_pixelcnn_pp
            else None
        )

    def features(self, mean: Tensor) -> Tensor:
        """f(z) as the PixelCNN sees it.

        Args:
            mean: (B, 3, r, r), in [0, 256] edge units.

        Returns:
            (B, 3, H, W), black and white at -1 and 1, at the size of x.
        """
        # PAPER: the range of f(z) that conditions the PixelCNN is not given; values outside the colour range are clipped.
        features = ((mean - 128.0) / 127.5).clamp(-1.0, 1.0)  # the value v has its centre at v + 0.5
        if self.options.detach_features:
            features = features.detach()
        if features.shape[-1] == self.image_size:
            return features
        # PAPER: the paper conditions on "an upsampled version" of a low-resolution f(z); the way is `model.upsampling`.
        if self.options.upsampling == "nearest":
            return F.interpolate(features, size=self.image_size, mode="nearest")
        return F.interpolate(features, size=self.image_size, mode="bilinear", align_corners=False)

    def forward(self, x_uint8: Tensor, y_uint8: Tensor | None = None, noise: Noise | None = None) -> Terms:
        """The terms of Eq. 7 for a batch, unreduced.

        Args:
            x_uint8: (B, 3, H, W), integers 0 to 255.
            y_uint8: (B, 3, r, r), the auxiliary image before quantization; needed by a model with a VAE.
            noise: of the latent variables; None draws it from the global generator.

        Returns:
            Nats per image.
        """
        if self.vae is None:
            zero = torch.zeros(x_uint8.shape[0], device=x_uint8.device)
            return Terms(zero, self.log_prob_x(x_uint8, None), None, zero.sum())
        return self.terms_given_records(x_uint8, y_uint8, self.vae.encode(x_uint8), noise or self.vae.noise())

    def terms_given_records(self, x_uint8: Tensor, y_uint8: Tensor | None, records: list[BottomUp], noise: Noise) -> Terms:
        """`forward` from the encoder's bottom-up pass on, which is the same for every sample of an image."""
        assert self.vae is not None, "only a model with a VAE has records"
        mean, kl_maps = self.vae.decode(records, x_uint8.shape[0], noise)
        log_prob_x = self.log_prob_x(x_uint8, self.features(mean)) if self.pixelcnn_pp is not None else None
        log_prob_y = None
        if y_uint8 is not None:
            parameters = self._for_likelihood(mean), self._for_likelihood(self.vae.log_scale)
            log_prob_y = discretized_logistic_log_prob(y_uint8, *parameters, self.levels, self.options.likelihood.tails).sum((1, 2, 3))
        return Terms(kl_maps.sum(1), log_prob_x, log_prob_y, free_bits(kl_maps, self.options.vae.free_bits))

    def log_prob_x(self, x_uint8: Tensor, features: Tensor | None) -> Tensor:
        """Log p(x | x_<, f(z)), nats per image (B,).

        Args:
            x_uint8: (B, 3, H, W).
            features: (B, 3, H, W) of `features`, or None for the unconditional network.
        """
        assert self.pixelcnn_pp is not None, "only a model with a PixelCNN models x autoregressively"
        dtype = self.pixelcnn_pp.out.gain.dtype
        logits = self.pixelcnn_pp(scale_to_unit(x_uint8, dtype), features)
        return mixture_log_prob(self._for_likelihood(logits), x_uint8).sum((1, 2))

    def _for_likelihood(self, outputs: Tensor) -> Tensor:
        return outputs.to(torch.promote_types(outputs.dtype, self.likelihood_dtype))

    def checkpoint_activations(self, wanted: bool) -> None:
        """Compute the activations of every layer again in the backward pass: half the memory, a third more arithmetic."""
        for module in self.modules():
            if isinstance(module, Checkpointed):
                module.checkpointing = wanted

    @torch.no_grad()
    def initialise(self, x_uint8: Tensor, y_uint8: Tensor, *, vae: bool, pixelcnn_pp: bool) -> None:
        """Data-dependent initialisation of the parts that were not loaded from a pretrained network.

        Args:
            x_uint8: (B, 3, H, W).
            y_uint8: (B, 3, r, r).
            vae: whether the VAE is new.
            pixelcnn_pp: whether the PixelCNN is new; if not, only its feature stream is initialised.
        """
        if self.vae is not None and vae:
            self.vae.initialise(x_uint8, y_uint8)
        if self.pixelcnn_pp is None:
            return
        features = None
        if self.vae is not None:
            mean, _ = self.vae.decode(self.vae.encode(x_uint8), x_uint8.shape[0], self.vae.noise())
            features = self.features(mean)
        x = scale_to_unit(x_uint8, self.pixelcnn_pp.out.gain.dtype)
        if pixelcnn_pp:
            self.pixelcnn_pp.initialise(x, features)
        elif features is not None:
            self.pixelcnn_pp.initialise_stream(x, features)
