"""PixelCNN++ (Salimans et al. 2017), conditioned on a feature stream (AGAVE paper, section 4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agave.config_networks import PixelCNNppModel
from agave.models.feature_stream import FeatureStream
from agave.models.gated_block import GatedBlock
from agave.models.layers import (
    WeightNormConv2d,
    at_least_float32,
    data_dependent_initialisation,
    down_conv,
    down_right_conv,
    down_shift,
    full_precision,
    nin,
    right_shift,
)
from agave.models.ops import Activation, elu
from agave.random_numbers import RandomNumbers, StepNumbers


class PixelCNNpp(nn.Module):
    """PixelCNN++: p(x) = prod_i p(x_i | x_<i), or p(x | f) given a feature image.

    There are two streams: u sees all rows above, ul sees u and the pixels to the left. There are `resolutions` grids, each half the
    size of the one before, joined by skip connections.

    Args:
        filters: feature maps F.
        resnets: gated blocks per resolution R (one more in the down pass, except at the coarsest resolution).
        mixtures: components K of the mixture of logistics.
        resolutions: number of grids; H and W must be divisible by 2^(resolutions - 1).
        feature_channels: channels of the feature image; 0: unconditional.
        stream_channels: feature maps of the stream made from the feature image; None: as many as `filters`.
        dropout: probability of dropping an activation in a gated block while training.
        outputs: numbers that the network puts out for a pixel; None: the 10 K of the mixture.

    Source: Salimans et al. (2017).
    """

    def __init__(
        self,
        filters: int,
        resnets: int,
        mixtures: int,
        resolutions: int = 3,
        feature_channels: int = 0,
        *,
        stream_channels: int | None = None,
        dropout: float = 0.5,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.filters, self.resnets, self.mixtures = filters, resnets, mixtures
        self.resolutions, self.feature_channels, self.dropout = resolutions, feature_channels, dropout
        stream = (stream_channels or filters) if feature_channels else 0

        def blocks(number: int, skip_u: int, skip_ul: int) -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    "u": nn.ModuleList(GatedBlock(down_conv, filters, skip_u, stream, dropout) for _ in range(number)),
                    "ul": nn.ModuleList(GatedBlock(down_right_conv, filters, skip_ul, stream, dropout) for _ in range(number)),
                }
            )

        blocks_up = [resnets] * resolutions
        blocks_down = [resnets] + [resnets + 1] * (resolutions - 1)
        self.init = nn.ModuleDict(
            {
                "u": down_conv(4, filters, (2, 3)),
                "ul_above": down_conv(4, filters, (1, 3)),
                "ul_left": down_right_conv(4, filters, (2, 1)),
            }
        )
        self.up = nn.ModuleList(blocks(n, 0, filters) for n in blocks_up)
        self.downsize = nn.ModuleList(
            nn.ModuleDict({"u": down_conv(filters, filters, stride=2), "ul": down_right_conv(filters, filters, stride=2)})
            for _ in range(resolutions - 1)
        )
        self.down = nn.ModuleList(blocks(n, filters, 2 * filters) for n in blocks_down)
        self.upsize = nn.ModuleList(
            nn.ModuleDict(
                {
                    # full output (2H+1) x (2W+2): keep rows 0..2H-1 and columns 1..2W
                    "u": WeightNormConv2d(filters, filters, (2, 3), stride=2, padding=(1, 0, 0, 0), transposed=True),
                    "ul": WeightNormConv2d(filters, filters, (2, 2), stride=2, transposed=True),
                }
            )
            for _ in range(resolutions - 1)
        )
        self.out = nin(filters, outputs or 10 * mixtures)
        self.stream = FeatureStream(feature_channels, stream, blocks_up, blocks_down) if feature_channels else None

    @classmethod
    def from_options(cls, sizes: PixelCNNppModel, feature_channels: int = 0, outputs: int | None = None) -> PixelCNNpp:
        """Make a network of the sizes in params.yaml."""
        return cls(
            sizes.filters,
            sizes.resnets,
            sizes.mixtures,
            sizes.resolutions,
            feature_channels,
            stream_channels=sizes.stream_channels,
            dropout=sizes.dropout,
            outputs=outputs,
        )

    def check(self, shape: tuple[int, ...] | torch.Size, features: Tensor | None) -> None:
        """Raise ValueError unless x of this shape (B, 3, H, W) and these features can be modelled."""
        divisor = 2 ** (self.resolutions - 1)
        if len(shape) != 4 or shape[1] != 3 or shape[2] % divisor or shape[3] % divisor:
            raise ValueError(f"x has shape {tuple(shape)}; accepted: (B, 3, H, W) with H and W multiples of {divisor}")
        accepted = (shape[0], self.feature_channels, *shape[2:])
        if features is not None and tuple(features.shape) != accepted:
            wanted = accepted if self.feature_channels else "None, this network has no feature stream"
            raise ValueError(f"features have shape {tuple(features.shape)}; accepted: {wanted}")

    def stream_activations(self, features: Tensor | None) -> tuple[list[list[Any]], list[list[Any]]]:
        """Return activations of the feature stream per resolution and block, or None for each if there are no features."""
        if self.stream is not None and features is not None:
            return self.stream(features)  # type: ignore[no-any-return]
        return [[None] * len(stage["u"]) for stage in self.up], [[None] * len(stage["u"]) for stage in self.down]  # type: ignore[index]

    def dropout_masks(self, batch: int, height: int, width: int, numbers: RandomNumbers) -> list[Tensor]:
        """Draw dropout masks: booleans (B, h, w, 2F), False for a dropped activation, one tensor per gated block in the order of `forward`.

        Args:
            batch: number of images B.
            height: height of the images, pixels.
            width: width of the images, pixels.
            numbers: source of the random numbers.

        Returns:
            An empty list if nothing is dropped: in evaluation mode, or with a dropout probability of 0.
        """
        if not self.training or self.dropout == 0:
            return []
        scales = [(s, stage) for s, stage in enumerate(self.up)]
        scales += [(len(self.down) - 1 - s, stage) for s, stage in enumerate(self.down)]
        shapes = [
            (height >> s, width >> s, 2 * self.filters)
            for s, stage in scales
            for _ in range(2 * len(stage["u"]))  # type: ignore[index]
        ]
        return numbers.masks(batch, shapes, self.dropout, self.out.gain)

    def forward(
        self, x: Float[Tensor, "b 3 h w"], features: Tensor | None = None, keep: list[Tensor] | None = None
    ) -> Float[Tensor, "b k h w"]:
        """Return the logits of every pixel given the pixels before it in raster order.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            features: (B, feature_channels, H, W), f(z) in [-1, 1] at the size of x; None leaves the network unconditional.
            keep: result of `dropout_masks`; None draws them from torch's global generator if something is to be dropped.

        Returns:
            (B, 10 K, H, W), layout of `likelihoods.split_logits`, or (B, outputs, H, W).

        Raises:
            ValueError: a shape does not fit.
        """
        self.check(x.shape, features)
        if keep is None:
            keep = self.dropout_masks(x.shape[0], x.shape[2], x.shape[3], StepNumbers())
        masks: Iterator[Tensor | None] = iter(keep) if keep else repeat(None)
        x = x.contiguous(memory_format=torch.channels_last)  # all activations: convolutions of many channels are faster so
        phi_up, phi_down = self.stream_activations(features)
        x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)  # a channel of ones tells the padding from mid grey: (B, 4, H, W)
        u = down_shift(self.init["u"](x))
        ul = down_shift(self.init["ul_above"](x)) + right_shift(self.init["ul_left"](x))
        skips: list[tuple[Activation, Activation]] = []
        for s, stage in enumerate(self.up):  # the up pass, from the finest grid to the coarsest
            if s > 0:
                u, ul = self.downsize[s - 1]["u"](u), self.downsize[s - 1]["ul"](ul)  # type: ignore[index]
            t_u, t_ul = stage["u"][0].stream(u), stage["ul"][0].stream(ul)  # type: ignore[index]
            skips.append((t_u.active, t_ul.active))
            for block_u, block_ul, phi in zip(stage["u"], stage["ul"], phi_up[s], strict=True):  # type: ignore[index]
                t_u = block_u(t_u, (), phi, next(masks))
                t_ul = block_ul(t_ul, (t_u.active,), phi, next(masks))
                skips.append((t_u.active, t_ul.active))
            u, ul = t_u.value, t_ul.value
        skips.pop()  # of the states that the down pass begins with
        for s, stage in enumerate(self.down):  # the down pass, back to the finest grid
            if s > 0:
                u, ul = self.upsize[s - 1]["u"](u), self.upsize[s - 1]["ul"](ul)  # type: ignore[index]
                t_u, t_ul = stage["u"][0].stream(u), stage["ul"][0].stream(ul)  # type: ignore[index]
            for block_u, block_ul, phi in zip(stage["u"], stage["ul"], phi_down[s], strict=True):  # type: ignore[index]
                skip_u, skip_ul = skips.pop()
                t_u = block_u(t_u, (skip_u,), phi, next(masks))
                t_ul = block_ul(t_ul, (t_u.active, skip_ul), phi, next(masks))
            u, ul = t_u.value, t_ul.value
        with full_precision(ul):
            return self.out(elu(at_least_float32(ul).contiguous()))  # type: ignore[no-any-return]

    @torch.no_grad()
    def initialise(self, x: Tensor, features: Tensor | None = None) -> None:
        """Initialise the network from a batch, dropout on as while training.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            features: (B, feature_channels, H, W) or None.
        """
        with data_dependent_initialisation(self):
            self(x, features)

    @torch.no_grad()
    def initialise_stream(self, x: Tensor, features: Tensor) -> None:
        """Add the feature stream to a network pretrained without it.

        Only the stream and the injections are initialised from the data; the logits change little.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            features: (B, feature_channels, H, W).
        """
        assert self.stream is not None, "only a conditional network has a stream"
        injections = [block.inject for block in self.modules() if isinstance(block, GatedBlock) and block.inject is not None]
        with data_dependent_initialisation(self.stream, *injections):
            self(x, features)


def published_names(model: PixelCNNpp) -> dict[str, WeightNormConv2d]:
    """Return the unconditional layers by their canonical names, for example "up0.ul.block1.conv2"."""
    names = {}
    for path, layer in model.named_modules():
        if isinstance(layer, WeightNormConv2d) and not path.startswith("stream.") and not path.endswith(".inject"):
            path = re.sub(r"^(up|down|downsize|upsize)\.(\d+)", r"\1\2", path)
            names[re.sub(r"\.(u|ul)\.(\d+)\.", r".\1.block\2.", path)] = layer
    return names


def load_published_weights(model: PixelCNNpp, arrays: Mapping[str, Any]) -> None:
    """Load effective weights of a PixelCNN++ trained elsewhere.

    Args:
        model: network of the same size; its feature stream, if any, keeps its weights.
        arrays: {canonical name: array}, for each layer NAME.W and NAME.b, as `published_names` lists them; a prefix
            "param/" and arrays outside it are ignored. Dense layers may be (out, in). Transposed ones are (in, out, h, w).

    Raises:
        ValueError: names are missing or left over, or a shape does not fit; the model is then unchanged.
    """
    if any(key.startswith("param/") for key in arrays):
        arrays = {key.removeprefix("param/"): value for key, value in arrays.items() if key.startswith("param/")}
    layers = published_names(model)
    wanted = {f"{name}.{part}" for name in layers for part in "Wb"}
    if set(arrays) != wanted:
        missing, extra = sorted(wanted - set(arrays)), sorted(set(arrays) - wanted)
        raise ValueError(
            f"the weights do not fit a PixelCNN of {model.filters} filters, {model.resnets} resnets and {model.resolutions} resolutions: "
            f"{len(missing)} missing ({', '.join(missing[:3])}), {len(extra)} unknown ({', '.join(extra[:3])})"
        )
    ready = {}
    for name, layer in layers.items():
        weight, bias = (torch.as_tensor(arrays[f"{name}.{part}"]).to(layer.direction) for part in "Wb")
        weight = weight[:, :, None, None] if weight.ndim == 2 else weight
        if weight.shape != layer.direction.shape or bias.shape != (layer.out_channels,):
            raise ValueError(
                f"{name}: weight {tuple(weight.shape)}, bias {tuple(bias.shape)}; "
                f"accepted: {tuple(layer.direction.shape)}, ({layer.out_channels},)"
            )
        ready[name] = (weight, bias)
    for name, (weight, bias) in ready.items():
        layers[name].set_weight(weight, bias)


def published_weights(model: PixelCNNpp) -> dict[str, Tensor]:
    """Return the inverse of `load_published_weights`: effective weights and biases by canonical name, dense layers (out, in)."""
    arrays = {}
    for name, layer in published_names(model).items():
        weight = layer.weight().detach()
        arrays[f"{name}.W"] = weight[:, :, 0, 0] if weight.shape[2:] == (1, 1) else weight
        assert layer.bias is not None, "all layers of the published network have a bias"
        arrays[f"{name}.b"] = layer.bias.detach()
    return arrays
