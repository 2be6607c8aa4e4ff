"""PixelCNN++ (Salimans et al. 2017), conditioned on a feature stream (AGAVE paper, section 4.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agave.models.layers import (
    Checkpointed,
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
from agave.models.ops import elu, gate, padded_concat_elu

INJECTION_SCALE = 0.05
"""Standard deviation of what the feature stream first adds in a gated block.

Small enough that a pretrained network hardly notices (about 0.2 bits/dim in the preset `demo`), large enough that all
weights behind it learn from the first step: from zero, samples followed f(z) only after several times as many steps.
"""


class State(NamedTuple):
    """What one stream of the network is at a layer; the activation is computed once for all convolutions that read it.

    Attributes:
        value: (B, F, H, W).
        padded: concat_elu of it with the zeros that this stream's convolutions need, (B, 2F, H + top, W + left + right).
        active: the same without the zeros, (B, 2F, H, W), for skip connections.
    """

    value: Tensor
    padded: Tensor
    active: Tensor


class SkipConv(WeightNormConv2d):
    """A 1x1 convolution on concat_elu of several tensors side by side, [s1, s2, -s1, -s2], which stay apart in memory."""

    def forward(self, *active: Tensor) -> Tensor:  # type: ignore[override]
        """concat_elu of each, (B, 2 C_i, H, W) -> (B, out, H, W)."""
        if len(active) == 1:
            return super().forward(active[0])
        if self.initialising:
            halves = [one.chunk(2, dim=1) for one in active]
            return super().forward(torch.cat([plus for plus, _ in halves] + [minus for _, minus in halves], dim=1))
        sizes = [one.shape[1] // 2 for one in active]
        weights = torch.split(self.weight(), 2 * sizes, dim=1)
        matrices = [torch.cat(pair, dim=1) for pair in zip(weights[: len(active)], weights[len(active) :], strict=True)]
        out = F.conv2d(active[0], matrices[0], self.bias)
        for one, matrix in zip(active[1:], matrices[1:], strict=True):
            out += F.conv2d(one, matrix)
        return out


class GatedBlock(Checkpointed):
    """Gated residual block: t + p * sigmoid(q), with (p, q) from two convolutions, a skip input and the feature stream.

    Args:
        conv: `down_conv` (u stream) or `down_right_conv` (ul stream).
        filters: feature maps F of t.
        skip_channels: channels of the skip input; 0: none.
        stream_channels: channels of the feature stream; 0: none.
        dropout: probability of dropping an activation between the convolutions.

    Source: Salimans et al. (2017), section 2.4; conditioning in the place of the class vector.
    """

    def __init__(self, conv: Any, filters: int, skip_channels: int, stream_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv1: WeightNormConv2d = conv(2 * filters, filters)
        self.skip = SkipConv(2 * skip_channels, filters, (1, 1)) if skip_channels else None
        self.conv2: WeightNormConv2d = conv(2 * filters, 2 * filters, init_scale=0.1)
        # PAPER: how the feature stream enters a layer is not given; here it is added before the gate of every block.
        self.inject = nin(stream_channels, 2 * filters, init_scale=INJECTION_SCALE) if stream_channels else None
        self.dropout = dropout

    def forward(self, t: State, skips: tuple[Tensor, ...] = (), feature: Tensor | None = None) -> State:
        """T, the `active` of skips of together `skip_channels`, feature (B, stream channels, H, W) -> the next t."""
        return self.again(self._forward, t, skips, feature)

    def _forward(self, t: State, skips: tuple[Tensor, ...], feature: Tensor | None) -> State:
        c = self.conv1(t.padded, padded=True)
        if self.skip is not None and skips:
            c += self.skip(*skips)
        dropout = self.dropout if self.training else 0.0
        padded, _ = padded_concat_elu(c, self.conv2.padding, dropout)
        c = self.conv2(padded, padded=True)  # (B, 2F, H, W)
        if self.inject is not None and feature is not None:
            c += self.inject(feature)
        return self.state(gate(t.value, c))

    def state(self, value: Tensor) -> State:
        """A value (B, F, H, W) with its activation, as this kind of block reads it."""
        padded, active = padded_concat_elu(value, self.conv1.padding, with_active=True)
        assert active is not None, "asked for"
        return State(value, padded, active)


class FeatureStream(nn.Module):
    """Non-masked convolutions on f(z): one activation per gated block, at the resolution of that block.

    Args:
        feature_channels: channels of f(z).
        stream_channels: feature maps of the stream.
        blocks_up: gated blocks per resolution on the way down to the coarsest grid, finest first.
        blocks_down: gated blocks per resolution on the way back, coarsest first.

    Source: AGAVE paper, section 4.1: "standard non-masked convolutional layers [...], as many as there are pixelCNN layers".
    """

    def __init__(self, feature_channels: int, stream_channels: int, blocks_up: list[int], blocks_down: list[int]) -> None:
        super().__init__()
        channels = stream_channels

        def conv(in_channels: int, init_scale: float = 1.0) -> WeightNormConv2d:
            return WeightNormConv2d(in_channels, channels, (3, 3), padding=(1, 1, 1, 1), init_scale=init_scale)

        # PAPER: kernel sizes and wiring of the stream are not given; 3x3 and residual, so that 32 layers keep what f(z) says.
        self.first = conv(feature_channels)
        self.up = nn.ModuleList(nn.ModuleList(conv(channels, 0.3) for _ in range(n)) for n in blocks_up)
        self.downsize = nn.ModuleList(WeightNormConv2d(channels, channels, (3, 3), stride=2, padding=(1, 1, 1, 1)) for _ in blocks_up[1:])
        self.down = nn.ModuleList(nn.ModuleList(conv(channels, 0.3) for _ in range(n)) for n in blocks_down)
        self.upsize = nn.ModuleList(
            WeightNormConv2d(channels, channels, (3, 3), stride=2, padding=(1, 0, 1, 0), transposed=True) for _ in blocks_down[1:]
        )

    def forward(self, features: Float[Tensor, "b c h w"]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """f(z) (B, C, H, W) -> activations [resolution][block] of the way down and of the way back, ready for injection."""
        phi = self.first(features.contiguous(memory_format=torch.channels_last))
        active = elu(phi)  # what convolutions and injections read
        up: list[list[Tensor]] = []
        ends = []
        for s, convs in enumerate(self.up):
            if s > 0:
                phi = self.downsize[s - 1](active)
                active = elu(phi)
            up.append([])
            for conv in convs:  # type: ignore[attr-defined]
                phi = phi + conv(active)
                active = elu(phi)
                up[-1].append(active)
            ends.append(phi)
        down: list[list[Tensor]] = []
        for s, convs in enumerate(self.down):
            if s > 0:
                phi = self.upsize[s - 1](active) + ends[-1 - s]
                active = elu(phi)
            down.append([])
            for conv in convs:  # type: ignore[attr-defined]
                phi = phi + conv(active)
                active = elu(phi)
                down[-1].append(active)
        return up, down


class PixelCNNpp(nn.Module):
    """PixelCNN++: p(x) = prod_i p(x_i | x_<i), or p(x | f) given a feature image.

    Two streams: u sees all rows above, ul sees u and what lies to the left. `resolutions` grids, each half the size of the
    one before, joined by skip connections.

    Args:
        filters: feature maps F.
        resnets: gated blocks per resolution R (one more on the way back, except at the coarsest).
        mixtures: components K of the mixture of logistics.
        resolutions: number of grids; H and W must be divisible by 2^(resolutions - 1).
        feature_channels: channels of the feature image; 0: unconditional.
        stream_channels: feature maps of the stream made from the feature image; None: as many as `filters`.
        dropout: probability of dropping an activation in a gated block while training.

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
    ) -> None:
        super().__init__()
        self.filters, self.resnets, self.mixtures = filters, resnets, mixtures
        self.resolutions, self.feature_channels = resolutions, feature_channels
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
        self.out = nin(filters, 10 * mixtures)
        self.stream = FeatureStream(feature_channels, stream, blocks_up, blocks_down) if feature_channels else None

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
        """Activations of the feature stream per resolution and block, or None for each if there are no features."""
        if self.stream is not None and features is not None:
            return self.stream(features)  # type: ignore[no-any-return]
        return [[None] * len(stage["u"]) for stage in self.up], [[None] * len(stage["u"]) for stage in self.down]  # type: ignore[index]

    def forward(self, x: Float[Tensor, "b 3 h w"], features: Tensor | None = None) -> Float[Tensor, "b k h w"]:
        """Logits of every pixel given the pixels before it in raster order.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            features: (B, feature_channels, H, W), f(z) in [-1, 1] at the size of x; None leaves the network unconditional.

        Returns:
            (B, 10 K, H, W), layout of `likelihoods.split_logits`.

        Raises:
            ValueError: a shape does not fit.
        """
        self.check(x.shape, features)
        x = x.contiguous(memory_format=torch.channels_last)  # all activations: convolutions of many channels are faster so
        phi_up, phi_down = self.stream_activations(features)
        x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)  # a channel of ones tells the padding from mid grey: (B, 4, H, W)
        u = down_shift(self.init["u"](x))
        ul = down_shift(self.init["ul_above"](x)) + right_shift(self.init["ul_left"](x))
        skips = []
        for s, stage in enumerate(self.up):
            if s > 0:
                u, ul = self.downsize[s - 1]["u"](u), self.downsize[s - 1]["ul"](ul)  # type: ignore[index]
            state_u, state_ul = stage["u"][0].state(u), stage["ul"][0].state(ul)  # type: ignore[index]
            skips.append((state_u.active, state_ul.active))
            for block_u, block_ul, phi in zip(stage["u"], stage["ul"], phi_up[s], strict=True):  # type: ignore[index]
                state_u = block_u(state_u, (), phi)
                state_ul = block_ul(state_ul, (state_u.active,), phi)
                skips.append((state_u.active, state_ul.active))
            u, ul = state_u.value, state_ul.value
        skips.pop()  # of the states that the way back begins with
        for s, stage in enumerate(self.down):
            if s > 0:
                u, ul = self.upsize[s - 1]["u"](u), self.upsize[s - 1]["ul"](ul)  # type: ignore[index]
                state_u, state_ul = stage["u"][0].state(u), stage["ul"][0].state(ul)  # type: ignore[index]
            for block_u, block_ul, phi in zip(stage["u"], stage["ul"], phi_down[s], strict=True):  # type: ignore[index]
                skip_u, skip_ul = skips.pop()
                state_u = block_u(state_u, (skip_u,), phi)
                state_ul = block_ul(state_ul, (state_u.active, skip_ul), phi)
            u, ul = state_u.value, state_ul.value
        with full_precision(ul):
            return self.out(elu(at_least_float32(ul).contiguous()))  # type: ignore[no-any-return]

    @torch.no_grad()
    def initialise(self, x: Tensor, features: Tensor | None = None) -> None:
        """Data-dependent initialisation on a batch, dropout on as while training.

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
    """The unconditional layers by their canonical names, for example "up0.ul.block1.conv2"."""
    names = {}
    for path, layer in model.named_modules():
        if isinstance(layer, WeightNormConv2d) and not path.startswith("stream.") and not path.endswith(".inject"):
            path = re.sub(r"^(up|down|downsize|upsize)\.(\d+)", r"\1\2", path)
            names[re.sub(r"\.(u|ul)\.(\d+)\.", r".\1.block\2.", path)] = layer
    return names


def load_published_weights(model: PixelCNNpp, arrays: Mapping[str, Any]) -> None:
    """Take over effective weights of a PixelCNN++ trained elsewhere.

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
    """The inverse of `load_published_weights`: effective weights and biases by canonical name, dense layers (out, in)."""
    arrays = {}
    for name, layer in published_names(model).items():
        weight = layer.weight().detach()
        arrays[f"{name}.W"] = weight[:, :, 0, 0] if weight.shape[2:] == (1, 1) else weight
        assert layer.bias is not None, "all layers of the published network have a bias"
        arrays[f"{name}.b"] = layer.bias.detach()
    return arrays
