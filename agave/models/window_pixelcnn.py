"""A shallow PixelCNN++ in which a pixel sees no more than a small window of pixels before it (Chen et al. 2017)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from agave.config_networks import WindowDecoder
from agave.models.gated_block import GatedBlock
from agave.models.layers import at_least_float32, down_conv, down_right_conv, down_shift, full_precision, nin, right_shift
from agave.models.ops import Activation, elu

ROWS_ABOVE, COLUMNS_ASIDE = 4, 3
"""The window of a pixel: so many rows above it, so many columns to the left and, in the rows above, to the right."""

LAYERS = 2  # gated blocks of a stream; each, like the first convolutions, widens the window by one column to either side


INJECTION_SCALE = 0.5
"""Initial standard deviation of what the features add in a gated block: not small, since they are there from the first step."""


class WindowPixelCNN(nn.Module):
    """PixelCNN++ with a window of 7x4 pixels above a pixel and three to the left of it: p(x | phi) = prod_i p(x_i | x_window(i), phi).

    Its feature maps are in sets, each a pair of streams as in PixelCNN++: u sees rows above, ul sees u and the pixels to the left.
    At every layer a set also sees the sets before it, through the gated blocks' skip inputs, which adds capacity and widens no window.

    Args:
        sets: number of sets S.
        filters: feature maps F of a set.
        mixtures: components K of the mixture of logistics.
        feature_channels: channels of the features phi.

    Source: Chen et al. (2017); Salimans et al. (2017), section 3.3 ("autoregressive channel").
    """

    def __init__(self, sets: int, filters: int, mixtures: int, feature_channels: int) -> None:
        super().__init__()
        self.mixtures = mixtures
        along_row = partial(down_right_conv, kernel=(1, 2))
        block = partial(GatedBlock, conv2=nin, injection_scale=INJECTION_SCALE)

        def streams(earlier: int) -> nn.ModuleDict:
            first = {"u": down_conv(4, filters), "ul_above": down_conv(4, filters, (1, 3)), "ul_left": down_right_conv(4, filters, (2, 1))}
            # PAPER: The paper gives the windows, not the layers. With one spatial convolution a block (2x3 above, 1x2 along the row), an
            # initial layer and two blocks have the window 7x4, three pixels to the left. Both convolutions of PixelCNN++'s block see more.
            u = [block(down_conv, filters, earlier * filters, feature_channels) for _ in range(LAYERS)]
            ul = [block(along_row, filters, (1 + earlier) * filters, feature_channels) for _ in range(LAYERS)]
            return nn.ModuleDict({"first": nn.ModuleDict(first), "u": nn.ModuleList(u), "ul": nn.ModuleList(ul)})

        self.sets = nn.ModuleList(streams(earlier) for earlier in range(sets))
        self.out = nin(sets * filters, 10 * mixtures)

    @classmethod
    def from_options(cls, sizes: WindowDecoder, feature_channels: int) -> WindowPixelCNN:
        """Make a network of the sizes in params.yaml."""
        return cls(sizes.sets, sizes.filters, sizes.mixtures, feature_channels)

    def forward(self, x: Float[Tensor, "b 3 h w"], features: Float[Tensor, "b c h w"] | None = None) -> Float[Tensor, "b k h w"]:
        """Return the logits of every pixel given its window.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            features: phi, (B, feature_channels, H, W); None leaves the network unconditional.

        Returns:
            (B, 10 K, H, W), layout of `likelihoods.split_logits`.
        """
        x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)  # a channel of ones tells the padding from mid grey: (B, 4, H, W)
        x = x.contiguous(memory_format=torch.channels_last)
        earlier_u: list[tuple[Activation, ...]] = [()] * LAYERS  # states of the sets so far, by layer
        earlier_ul = list(earlier_u)
        ends = []
        for streams in self.sets:
            first, blocks_u, blocks_ul = streams["first"], streams["u"], streams["ul"]  # type: ignore[index]
            u = blocks_u[0].stream(down_shift(first["u"](x)))
            ul = blocks_ul[0].stream(down_shift(first["ul_above"](x)) + right_shift(first["ul_left"](x)))
            for layer, (block_u, block_ul) in enumerate(zip(blocks_u, blocks_ul, strict=True)):
                u = block_u(u, earlier_u[layer], features)
                ul = block_ul(ul, (u.active, *earlier_ul[layer]), features)
                earlier_u[layer] = (*earlier_u[layer], u.active)
                earlier_ul[layer] = (*earlier_ul[layer], ul.active)
            ends.append(ul.value)
        h = torch.cat(ends, dim=1)
        with full_precision(h):
            return self.out(elu(at_least_float32(h)))  # type: ignore[no-any-return]

    def logits_of_pixel(self, x: Tensor, features: Tensor, row: int, column: int) -> Tensor:
        """Return the logits of one pixel (B, 10 K), those of `forward`, computed on its window alone.

        Args:
            x: (B, 3, H, W) in [-1, 1]; of it the pixels in the window count.
            features: phi, (B, feature_channels, H, W).
            row: row of the pixel.
            column: its column.
        """
        rows = slice(max(0, row - ROWS_ABOVE), row + 1)
        columns = slice(max(0, column - COLUMNS_ASIDE), column + COLUMNS_ASIDE + 1)
        logits: Tensor = self(x[:, :, rows, columns], features[:, :, rows, columns])
        return logits[:, :, -1, column - columns.start]
