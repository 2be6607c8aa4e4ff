"""Run PixelCNN++ one pixel at a time, so that every hidden activation is computed once.

A full forward pass for every pixel would compute everything H W times. Here the vertical stream runs once per row and the
horizontal stream once per pixel; each convolution keeps the one row above that it still needs. Coarser grids run when their
pixel is due, and the outputs of transposed convolutions wait until the finer grid reaches them. Everything that depends on f(z)
alone, and all effective weights, are computed once before the first pixel.

Source: Ramachandran et al. (2017), Fast Generation for Convolutional Autoregressive Models.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from agave.models.gated_block import GatedBlock
from agave.models.layers import WeightNormConv2d
from agave.models.ops.fused import exponential_part
from agave.models.pixelcnn_pp import PixelCNNpp


class _RowConv:
    """A down-shifted convolution that is given one row (B, C, 1, W) at a time and keeps the row before."""

    def __init__(self, layer: WeightNormConv2d, batch: int, width: int, like: Tensor) -> None:
        self.weight, self.bias = layer.weight(), layer.bias
        self.stride, self.padding = (1, layer.stride), (0, (self.weight.shape[3] - 1) // 2)
        self.rows = like.new_zeros(batch, layer.in_channels, 2, width)

    def push(self, row: Tensor) -> None:
        self.rows[:, :, 0] = self.rows[:, :, 1]
        self.rows[:, :, 1] = row[:, :, 0]

    def output(self) -> Tensor:
        return F.conv2d(self.rows, self.weight, self.bias, self.stride, self.padding)


class _ConcatELU:
    """concat_elu of (B, C), written into a given place (B, 2C)."""

    def __init__(self, place: Tensor) -> None:
        self.out = place
        self._plus, self._minus = place.chunk(2, dim=1)

    def __call__(self, t: Tensor) -> Tensor:
        self._plus.copy_(t)
        torch.neg(t, out=self._minus)
        return F.elu_(self.out)


class _PixelConv:
    """A 2x2 down-right convolution that is given one pixel (B, C) at a time and keeps the row above and the row so far.

    The two rows are interleaved, (B, W + 1, 2, C), so that the 2x2 neighbourhood of a pixel is one contiguous piece.
    """

    def __init__(self, layer: WeightNormConv2d, batch: int, width: int, like: Tensor) -> None:
        weight = layer.weight()  # (out, C, above/here, left/here)
        # out x (left/here, above/here, C): with the inputs side by side one image takes half the time
        self.matrix = weight.permute(0, 3, 2, 1).flatten(1).contiguous().t()
        self.pixels = like.new_zeros(batch, width + 1, 2, layer.in_channels)
        self.pairs = [self.pixels[:, c : c + 2].flatten(1) for c in range(width)]  # (B, 4C): what the output at a column reads
        self.here = [self.pixels[:, c + 1, 1] for c in range(width)]  # (B, C): where the pixel of a column is put

    def end_row(self) -> None:
        self.pixels[:, :, 0] = self.pixels[:, :, 1]


class _RowBlock:
    """A gated block of the vertical stream, one row at a time."""

    def __init__(self, block: GatedBlock, feature: Tensor | None, batch: int, width: int, like: Tensor) -> None:
        self.conv1, self.conv2 = (_RowConv(layer, batch, width, like) for layer in (block.conv1, block.conv2))
        self.skip = (block.skip.weight(), block.skip.bias) if block.skip is not None else None
        self.injection = block.inject(feature) if block.inject is not None and feature is not None else None  # (B, 2F, H, W)

    def step(self, row_index: int, t: Tensor, skip: Tensor | None) -> Tensor:
        self.conv1.push(_concat_elu(t))
        c = self.conv1.output()
        if self.skip is not None and skip is not None:
            c = c + F.conv2d(_concat_elu(skip), *self.skip)
        self.conv2.push(_concat_elu(c))
        c = self.conv2.output()
        if self.injection is not None:
            c = c + self.injection[:, :, row_index : row_index + 1]
        value, gate = c.chunk(2, dim=1)
        return torch.addcmul(t, value, torch.sigmoid(gate))


class _PixelBlock:
    """A gated block of the horizontal stream, one pixel at a time.

    Its skip input is [u] or [u, ul skip]; the part of u is known for a whole row, together with the bias of conv1. So is the
    injection, together with the bias of conv2.
    """

    def __init__(self, block: GatedBlock, feature: Tensor | None, batch: int, width: int, like: Tensor) -> None:
        filters = block.conv1.out_channels
        assert block.skip is not None and block.skip.bias is not None
        assert block.conv1.bias is not None and block.conv2.bias is not None
        weight = block.skip.weight()  # (F, 2F, 1, 1), or (F, 4F, 1, 1) for [u, s, -u, -s]
        self.skip_matrix: Tensor | None = None
        if block.skip.in_channels == 4 * filters:
            u, s, minus_u, minus_s = weight.chunk(4, dim=1)
            weight = torch.cat((u, minus_u), dim=1)
            self.skip_matrix = torch.cat((s, minus_s), dim=1)[:, :, 0, 0].t()
            self.skip_elu = _ConcatELU(like.new_empty(batch, 2 * filters))
        self.u_weight, self.row_bias = weight, block.skip.bias + block.conv1.bias
        self.conv1, self.conv2 = _PixelConv(block.conv1, batch, width, like), _PixelConv(block.conv2, batch, width, like)
        self.push1, self.push2 = ([_ConcatELU(here) for here in conv.here] for conv in (self.conv1, self.conv2))
        self.row1, self.row2 = like.new_empty(width, batch, filters), like.new_empty(width, batch, 2 * filters)
        self.row2.copy_(block.conv2.bias)
        self.more1, self.more2 = self.row1.unbind(), self.row2.unbind()  # by column: what is added to the two convolutions
        self.injection: Tensor | None = None
        if block.inject is not None and feature is not None:
            injection = block.inject(feature) + block.conv2.bias.view(1, -1, 1, 1)
            self.injection = injection.permute(2, 3, 0, 1).contiguous()  # (H, W, B, 2F)
        self.c1, self.c2, self.out = (like.new_empty(batch, n * filters) for n in (1, 2, 1))
        self.value, self.gate = self.c2.chunk(2, dim=1)

    def start_row(self, row_index: int, u: Tensor) -> None:
        """Take the row (B, F, 1, W) of the vertical stream that this row of pixels reads."""
        _by_pixel(F.conv2d(_concat_elu(u), self.u_weight, self.row_bias), self.row1)
        if self.injection is not None:
            self.row2.copy_(self.injection[row_index])

    def step(self, column: int, t: Tensor, skip: Tensor | None) -> Tensor:
        self.push1[column](t)
        more = self.more1[column]
        if self.skip_matrix is not None and skip is not None:
            more = torch.addmm(more, self.skip_elu(skip), self.skip_matrix, out=self.c1)
        torch.addmm(more, self.conv1.pairs[column], self.conv1.matrix, out=self.c1)
        self.push2[column](self.c1)
        torch.addmm(self.more2[column], self.conv2.pairs[column], self.conv2.matrix, out=self.c2)
        return torch.addcmul(t, self.value, self.gate.sigmoid_(), out=self.out)

    def end_row(self) -> None:
        self.conv1.end_row()
        self.conv2.end_row()


class _Upsize:
    """The step from a coarse grid to the next finer one. Both outputs wait until the finer grid reaches them."""

    def __init__(self, u: WeightNormConv2d, ul: WeightNormConv2d, batch: int, width: int, like: Tensor) -> None:
        assert ul.bias is not None
        filters = ul.out_channels
        self.u_weight, self.u_bias = u.weight(), u.bias
        self.u_rows = like.new_zeros(batch, filters, 2, width)
        self.matrix = ul.weight().permute(2, 3, 1, 0).flatten(0, 2).contiguous().t()  # in x (row, column, out)
        self.bias = ul.bias.repeat(4)
        self.block = like.new_empty(batch, 4 * filters)
        self.by_place = self.block.view(batch, 2, 2, filters).permute(1, 2, 0, 3)  # (row, column, B, F)
        ul_rows = like.new_zeros(2, width, batch, filters)
        self.pixels = [row.unbind() for row in ul_rows]  # [row][column] (B, F)
        self.places = [ul_rows[:, c : c + 2] for c in range(0, width, 2)]

    def push_row(self, u: Tensor) -> None:
        rows = F.conv_transpose2d(u, self.u_weight, self.u_bias, stride=2, output_padding=(0, 1))  # (B, F, 2, 2W + 2)
        self.u_rows.copy_(rows[:, :, :, 1:-1])

    def push(self, column: int, ul: Tensor) -> None:
        torch.addmm(self.bias, ul, self.matrix, out=self.block)
        self.places[column].copy_(self.by_place)


def _concat_elu(x: Tensor) -> Tensor:
    """Return elu([x, -x]): (B, C, ...) -> (B, 2C, ...)."""
    exponential = exponential_part(x)
    return torch.cat((torch.maximum(x, exponential), torch.maximum(-x, exponential)), dim=1)


def _by_pixel(row: Tensor, out: Tensor) -> None:
    """Rearrange (B, C, 1, W) -> (W, B, C), so that indexing by column gives a matrix."""
    out.copy_(row[:, :, 0].permute(2, 0, 1))


class CachedPixelCNNpp:
    """The pixel-by-pixel evaluation of a `PixelCNNpp` for one batch of images.

    Call `start_row(i)`, then for each column `logits(j)` and `write(j, pixel)`, then `end_row()`, for all rows in order.
    `logits` and `write` allocate nothing and, for rows of the same `phase`, read and write the same addresses.

    Args:
        model: a network in evaluation mode.
        batch: number of images B.
        height: height of the images, pixels.
        width: width of the images, pixels.
        features: (B, feature_channels, H, W), or None.

    Raises:
        ValueError: a shape does not fit the model.
    """

    @torch.no_grad()
    def __init__(self, model: PixelCNNpp, batch: int, height: int, width: int, features: Tensor | None = None) -> None:
        model.check((batch, 3, height, width), features)
        like = model.out.gain.detach()
        self.levels, self.row = model.resolutions, 0
        self.image = like.new_zeros(batch, width, 3, 4)  # the two rows above and this one; the fourth channel is one inside the image
        self.image[:, :, 2, 3] = 1.0
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
        self.downsize: list[tuple[_RowConv, _PixelConv, Tensor]] = []  # by fine level
        self.upsize: list[_Upsize] = []
        modules: Any = zip(model.downsize, reversed(model.upsize), strict=True)
        for s, (downsize, upsize) in enumerate(modules):
            convs = _RowConv(downsize["u"], batch, widths[s], like), _PixelConv(downsize["ul"], batch, widths[s], like)
            self.downsize.append((*convs, downsize["ul"].bias))
            self.upsize.append(_Upsize(upsize["u"], upsize["ul"], batch, widths[s], like))
        init: Any = model.init
        self.init_u, self.init_above = ((init[k].weight(), init[k].bias) for k in ("u", "ul_above"))
        left: WeightNormConv2d = init["ul_left"]
        assert left.bias is not None and model.out.bias is not None
        self.left_bias, self.out_bias = left.bias, model.out.bias
        self.left_matrix = left.weight()[:, :, :, 0].permute(0, 2, 1).flatten(1).t()  # (above/here, channel) x F
        self.left = [self.image[:, c, 1:].flatten(1) for c in range(width)]  # (B, 8) by column
        self.here = [self.image[:, c, 2, :3] for c in range(width)]
        self.zero_row = like.new_zeros(batch, model.filters, 1, width)
        self.above_row = like.new_empty(width, batch, model.filters)
        self.above = self.above_row.unbind()
        self.starts = [like.new_empty(batch, model.filters) for _ in widths]  # the first activation of each level
        self.out_matrix = model.out.weight()[:, :, 0, 0].t()
        self.out_elu, self.out = like.new_empty(batch, model.filters), like.new_empty(batch, model.out.out_channels)

    @property
    def phase(self) -> int:
        """Return the kind of the current row, one of 2^(resolutions - 1), which differ in the levels that are due."""
        return self.row % (1 << (self.levels - 1))

    def _depth(self, index: int) -> int:
        """Return the coarsest level that has a pixel (or row) at this fine index."""
        return self.levels - 1 if index == 0 else min(self.levels - 1, (index & -index).bit_length() - 1)

    @torch.no_grad()
    def start_row(self, row: int) -> None:
        """Run the vertical stream, which sees only the rows above, for an image row."""
        self.row, depth = row, self._depth(row)
        if row == 0:  # the shifts follow the convolutions: the first row is zero, without bias
            u = above = self.zero_row
        else:
            rows = self.image.permute(0, 3, 2, 1)  # (B, 4, 3, W)
            u = F.conv2d(rows[:, :, :2], *self.init_u, padding=(0, 1))
            above = F.conv2d(rows[:, :, 1:2], *self.init_above, padding=(0, 1))
        _by_pixel(above, self.above_row)
        self.above_row[1:] += self.left_bias  # nothing lies to the left of the first column
        skips: list[list[Tensor]] = []
        for s in range(depth + 1):
            if s > 0:
                u = self.downsize[s - 1][0].output()
            skips.append([u])
            for block_u, block_ul in zip(*self.up[s], strict=True):
                u = block_u.step(row >> s, u, None)
                block_ul.start_row(row >> s, u)
                skips[s].append(u)
            if s + 1 < self.levels:
                self.downsize[s][0].push(u)
        for s in range(depth, -1, -1):
            if s == self.levels - 1:
                u = skips[s].pop()
            else:
                half = (row >> s) & 1
                u = self.upsize[s].u_rows[:, :, half : half + 1]
            for block_u, block_ul in zip(*self.down[s], strict=True):
                u = block_u.step(row >> s, u, skips[s].pop())
                block_ul.start_row(row >> s, u)
            if s > 0:
                self.upsize[s - 1].push_row(u)

    @torch.no_grad()
    def logits(self, column: int) -> Tensor:
        """Return the logits (B, outputs) of the pixel at this column of the current row; they are valid until the next call."""
        row, depth = self.row, self._depth(self.row | column)
        ul = self.above[column]
        if column > 0:
            ul = torch.addmm(ul, self.left[column - 1], self.left_matrix, out=self.starts[0])
        skips: list[list[Tensor]] = []
        for s in range(depth + 1):
            if s > 0:
                _, conv, bias = self.downsize[s - 1]
                ul = torch.addmm(bias, conv.pairs[column >> (s - 1)], conv.matrix, out=self.starts[s])
            skips.append([ul])
            for block in self.up[s][1]:
                ul = block.step(column >> s, ul, None)
                skips[s].append(ul)
            if s + 1 < self.levels:
                self.downsize[s][1].here[column >> s].copy_(ul)
        for s in range(depth, -1, -1):
            ul = skips[s].pop() if s == self.levels - 1 else self.upsize[s].pixels[(row >> s) & 1][column >> s]
            for block in self.down[s][1]:
                ul = block.step(column >> s, ul, skips[s].pop())
            if s > 0:
                self.upsize[s - 1].push(column >> s, ul)
        return torch.addmm(self.out_bias, F.elu_(self.out_elu.copy_(ul)), self.out_matrix, out=self.out)

    def write(self, column: int, pixel: Tensor) -> None:
        """Set the pixel (B, 3), in [-1, 1], which the following pixels see."""
        self.here[column].copy_(pixel)

    @torch.no_grad()
    def end_row(self) -> None:
        """Make the row just finished the row above."""
        self.image[:, :, :2] = self.image[:, :, 1:].clone()
        for s in range(self._depth(self.row) + 1):
            for block in (*self.up[s][1], *self.down[s][1]):
                block.end_row()
            if s + 1 < self.levels:
                self.downsize[s][1].end_row()
