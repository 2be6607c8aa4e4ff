"""PixelCNN++ one pixel at a time: every hidden activation is computed once.

A full forward pass per pixel computes H W times what one pass computes once. Here the vertical stream runs once a row and the
horizontal stream once a pixel; each convolution keeps the one row above that it still needs. Coarser grids run when their
pixel is due, and the outputs of transposed convolutions wait until the finer grid reaches them. All that depends on f(z)
alone, and all weights, are computed once before the first pixel.

Source: Ramachandran et al. (2017), Fast Generation for Convolutional Autoregressive Models.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agave.layers import WeightNormConv2d, concat_elu
from agave.pixelcnn import GatedBlock, PixelCNN


class _RowConv:
    """A down-shifted convolution fed one row (B, C, 1, W) at a time; keeps the row before."""

    def __init__(self, layer: WeightNormConv2d, batch: int, width: int, like: Tensor) -> None:
        self.weight, self.bias = layer.weight(), layer.bias
        self.stride, self.padding = (1, layer.stride), (0, (self.weight.shape[3] - 1) // 2)
        self.rows = torch.zeros(batch, layer.in_channels, 2, width, dtype=like.dtype, device=like.device)

    def push(self, row: Tensor) -> None:
        self.rows[:, :, 0] = self.rows[:, :, 1]
        self.rows[:, :, 1] = row[:, :, 0]

    def output(self) -> Tensor:
        return F.conv2d(self.rows, self.weight, self.bias, self.stride, self.padding)


class _PixelConv:
    """A 2x2 down-right convolution fed one pixel (B, C) at a time; keeps the row above and the row so far.

    The two rows lie interleaved, (B, W + 1, 2, C), so that the 2x2 neighbourhood of a pixel is one contiguous piece.
    """

    def __init__(self, layer: WeightNormConv2d, batch: int, width: int, like: Tensor, bias: bool = True) -> None:
        weight = layer.weight()  # (out, C, above/here, left/here)
        self.matrix = weight.permute(3, 2, 1, 0).reshape(-1, layer.out_channels).contiguous()  # (left/here, above/here, C) x out
        self.bias = layer.bias if bias else None
        channels = layer.in_channels
        self.pixels = torch.zeros(batch, width + 1, 2, channels, dtype=like.dtype, device=like.device)
        self.pairs = [self.pixels[:, c : c + 2].flatten(1) for c in range(width)]  # views (B, 4C)
        self.here = [self.pixels[:, c + 1, 1] for c in range(width)]

    def push(self, column: int, pixel: Tensor) -> None:
        self.here[column].copy_(pixel)

    def output(self, column: int, more: Tensor | None = None) -> Tensor:
        """The output at a column, (B, out), with `more` added in place of the bias if it is given."""
        addend = more if more is not None else self.bias
        return torch.mm(self.pairs[column], self.matrix) if addend is None else torch.addmm(addend, self.pairs[column], self.matrix)

    def end_row(self) -> None:
        self.pixels[:, :, 0] = self.pixels[:, :, 1]


def _gate(t: Tensor, c: Tensor) -> Tensor:
    value, gate = c.chunk(2, dim=1)
    return torch.addcmul(t, value, torch.sigmoid(gate))


def _by_pixel(row: Tensor) -> Tensor:
    """(B, C, 1, W) -> (W, B, C), contiguous: indexing by column gives a matrix."""
    return row[:, :, 0].permute(2, 0, 1).contiguous()


class _RowBlock:
    """A gated block of the vertical stream, one row at a time."""

    def __init__(self, block: GatedBlock, feature: Tensor | None, batch: int, width: int, like: Tensor) -> None:
        self.conv1, self.conv2 = (_RowConv(layer, batch, width, like) for layer in (block.conv1, block.conv2))
        self.skip = (block.skip.weight(), block.skip.bias) if block.skip is not None else None
        self.injection = block.inject(feature) if block.inject is not None and feature is not None else None  # (B, 2F, H, W)

    def step(self, row_index: int, t: Tensor, skip: Tensor | None) -> Tensor:
        self.conv1.push(concat_elu(t))
        c = self.conv1.output()
        if self.skip is not None and skip is not None:
            c = c + F.conv2d(concat_elu(skip), *self.skip)
        self.conv2.push(concat_elu(c))
        c = self.conv2.output()
        if self.injection is not None:
            c = c + self.injection[:, :, row_index : row_index + 1]
        return _gate(t, c)


class _PixelBlock:
    """A gated block of the horizontal stream, one pixel at a time.

    Its skip input is [u] or [u, ul skip]; the part of u is known for a whole row, together with the bias of conv1.
    """

    def __init__(self, block: GatedBlock, feature: Tensor | None, batch: int, width: int, like: Tensor) -> None:
        self.conv1, self.conv2 = _PixelConv(block.conv1, batch, width, like, bias=False), _PixelConv(block.conv2, batch, width, like)
        assert block.skip is not None and block.skip.bias is not None and block.conv1.bias is not None
        weight = block.skip.weight()  # (F, 2F, 1, 1), or (F, 4F, 1, 1) for [u, s, -u, -s]
        filters, inputs = block.skip.out_channels, block.skip.in_channels
        if inputs == 4 * filters:
            u, s, minus_u, minus_s = weight.chunk(4, dim=1)
            self.u_weight = torch.cat((u, minus_u), dim=1)
            self.skip_matrix: Tensor | None = torch.cat((s, minus_s), dim=1)[:, :, 0, 0].t().contiguous()
        else:
            self.u_weight, self.skip_matrix = weight, None
        self.row_bias = block.skip.bias + block.conv1.bias
        self.from_u = torch.empty(0)
        self.injection = None
        if block.inject is not None and feature is not None:
            injection = block.inject(feature) + block.conv2.bias.view(1, -1, 1, 1)  # type: ignore[union-attr]
            self.injection = injection.permute(2, 3, 0, 1).contiguous()  # (H, W, B, 2F)

    @torch.no_grad()
    def start_row(self, u: Tensor) -> None:
        """Take the row (B, F, 1, W) of the vertical stream that this row of pixels reads."""
        self.from_u = _by_pixel(F.conv2d(concat_elu(u), self.u_weight, self.row_bias))

    def step(self, row: int, column: int, t: Tensor, skip: Tensor | None) -> Tensor:
        self.conv1.push(column, concat_elu(t))
        more = self.from_u[column]
        if self.skip_matrix is not None and skip is not None:
            more = torch.addmm(more, concat_elu(skip), self.skip_matrix)
        self.conv2.push(column, concat_elu(self.conv1.output(column, more)))
        injection = None if self.injection is None else self.injection[row, column]
        return _gate(t, self.conv2.output(column, injection))

    def end_row(self) -> None:
        self.conv1.end_row()
        self.conv2.end_row()


class CachedPixelCNN:
    """The pixel-by-pixel evaluation of a `PixelCNN` for one batch of images.

    Call `start_row(i)`, then for each column `logits(j)` and `write(j, pixel)`, then `end_row()`, for all rows in order.

    Args:
        model: in evaluation mode.
        batch: number of images B.
        height: of the images, pixels.
        width: of the images, pixels.
        features: (B, feature_channels, H, W), or None.

    Raises:
        ValueError: a shape does not fit the model.
    """

    @torch.no_grad()
    def __init__(self, model: PixelCNN, batch: int, height: int, width: int, features: Tensor | None = None) -> None:
        model.check((batch, 3, height, width), features)
        like = model.out.gain
        self.levels, self.row, self._depth = model.resolutions, 0, 0
        self.image = torch.zeros(batch, 4, height + 2, width, dtype=like.dtype, device=like.device)  # two rows of zeros above
        phi_up, phi_down = model.stream_activations(features)
        widths = [width >> s for s in range(self.levels)]

        def blocks(stage: Any, phis: list[Any], level: int) -> tuple[list[_RowBlock], list[_PixelBlock]]:
            size = (batch, widths[level], like)
            return (
                [_RowBlock(block, phi, *size) for block, phi in zip(stage["u"], phis, strict=True)],
                [_PixelBlock(block, phi, *size) for block, phi in zip(stage["ul"], phis, strict=True)],
            )

        self.up = [blocks(stage, phis, s) for s, (stage, phis) in enumerate(zip(model.up, phi_up, strict=True))]
        down = [blocks(stage, phis, self.levels - 1 - s) for s, (stage, phis) in enumerate(zip(model.down, phi_down, strict=True))]
        self.down = down[::-1]  # by level, finest first
        self.downsize: list[tuple[_RowConv, _PixelConv]] = []
        self.upsize: list[tuple[WeightNormConv2d, Tensor, Tensor, Tensor]] = []
        self.upsized: list[tuple[Tensor, Tensor]] = []  # by fine level: two rows of u (B, F, 2, W), two rows of ul (2, W, B, F)
        modules: Any = zip(model.downsize, reversed(model.upsize), strict=True)
        for s, (downsize, upsize) in enumerate(modules):
            self.downsize.append((_RowConv(downsize["u"], batch, widths[s], like), _PixelConv(downsize["ul"], batch, widths[s], like)))
            weight = upsize["ul"].weight()  # (in, out, row, column)
            matrix = weight.permute(0, 2, 3, 1).reshape(model.filters, -1).contiguous()  # in x (row, column, out)
            self.upsize.append((upsize["u"], upsize["u"].weight(), matrix, upsize["ul"].bias.repeat(4)))
            empty = torch.empty(0)
            self.upsized.append((empty, torch.zeros(2, widths[s], batch, model.filters, dtype=like.dtype, device=like.device)))
        init: Any = model.init
        self.init_u, self.init_above = ((init[k].weight(), init[k].bias) for k in ("u", "ul_above"))
        left: WeightNormConv2d = init["ul_left"]
        self.left_matrix = left.weight()[:, :, :, 0].permute(2, 1, 0).reshape(8, -1).contiguous()  # (above/here, channel) x F
        assert left.bias is not None and model.out.bias is not None
        self.left_bias: Tensor = left.bias
        self.zero_row = torch.zeros(batch, model.filters, 1, width, dtype=like.dtype, device=like.device)
        self.out_matrix, self.out_bias = model.out.weight()[:, :, 0, 0].t().contiguous(), model.out.bias.detach()
        self.above = torch.empty(0)

    def _active(self, *indices: int) -> int:
        """The coarsest level whose grid has a pixel (or row) at these fine indices."""
        level = 0
        while level + 1 < self.levels and all(index % (2 << level) == 0 for index in indices):
            level += 1
        return level

    def start_row(self, row: int) -> None:
        """Run the vertical stream for an image row: it sees the rows above only."""
        self.row, depth = row, self._active(row)
        self._depth = depth
        first = row == 0  # the shifts follow the convolutions: the first row is zero, without bias
        u = self.zero_row if first else F.conv2d(self.image[:, :, row : row + 2], *self.init_u, padding=(0, 1))
        above = self.zero_row if first else F.conv2d(self.image[:, :, row + 1 : row + 2], *self.init_above, padding=(0, 1))
        self.above = _by_pixel(above)
        skips: list[list[Tensor]] = []
        for s in range(depth + 1):
            if s > 0:
                u = self.downsize[s - 1][0].output()
            skips.append([u])
            for block_u, block_ul in zip(*self.up[s], strict=True):
                u = block_u.step(row >> s, u, None)
                block_ul.start_row(u)
                skips[s].append(u)
            if s + 1 < self.levels:
                self.downsize[s][0].push(u)
        for s in range(depth, -1, -1):
            if s == self.levels - 1:
                u = skips[s].pop()
            else:
                half = (row >> s) & 1
                u = self.upsized[s][0][:, :, half : half + 1]
            for block_u, block_ul in zip(*self.down[s], strict=True):
                u = block_u.step(row >> s, u, skips[s].pop())
                block_ul.start_row(u)
            if s > 0:
                layer, weight, _, _ = self.upsize[s - 1]
                rows = F.conv_transpose2d(u, weight, layer.bias, stride=2, output_padding=(0, 1))  # (B, F, 2, 2W + 2)
                self.upsized[s - 1] = (rows[:, :, :, 1:-1], self.upsized[s - 1][1])

    @torch.no_grad()
    def logits(self, column: int) -> Tensor:
        """Logits (B, 10 K) of the pixel at this column of the current row."""
        row, depth = self.row, self._active(self.row, column)
        ul = self.above[column]
        if column > 0:
            before = self.image[:, :, row + 1 : row + 3, column - 1]  # (B, 4, above/here)
            ul = ul + torch.addmm(self.left_bias, before.transpose(1, 2).reshape(-1, 8), self.left_matrix)
        skips: list[list[Tensor]] = []
        for s in range(depth + 1):
            if s > 0:
                ul = self.downsize[s - 1][1].output(column >> (s - 1))
            skips.append([ul])
            for block in self.up[s][1]:
                ul = block.step(row >> s, column >> s, ul, None)
                skips[s].append(ul)
            if s + 1 < self.levels:
                self.downsize[s][1].push(column >> s, ul)
        for s in range(depth, -1, -1):
            ul = skips[s].pop() if s == self.levels - 1 else self.upsized[s][1][(row >> s) & 1, column >> s]
            for block in self.down[s][1]:
                ul = block.step(row >> s, column >> s, ul, skips[s].pop())
            if s > 0:
                _, _, matrix, bias = self.upsize[s - 1]
                four = torch.addmm(bias, ul, matrix).view(ul.shape[0], 2, 2, -1)  # (B, row, column, F)
                fine = 2 * (column >> s)
                self.upsized[s - 1][1][:, fine : fine + 2] = four.permute(1, 2, 0, 3)
        return torch.addmm(self.out_bias, F.elu(ul), self.out_matrix)

    @torch.no_grad()
    def write(self, column: int, pixel: Tensor) -> None:
        """Set the pixel (B, 3), in [-1, 1], that the following ones see."""
        self.image[:, :3, self.row + 2, column] = pixel
        self.image[:, 3, self.row + 2, column] = 1.0

    @torch.no_grad()
    def end_row(self) -> None:
        """Make the row just finished the row above."""
        for s in range(self._depth + 1):
            for block in (*self.up[s][1], *self.down[s][1]):
                block.end_row()
            if s + 1 < self.levels:
                self.downsize[s][1].end_row()
