"""A network's steps that touch whole maps: `networks.fused` and `networks.score_map` have the same by torch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from superpoint_ros.kernels.launching import where_the_first_is

VALUES = 4096
"""Of a map, that one program computes."""
AT_ONCE = 64
"""Values that are multiplied at once."""


@triton.jit
def _first_strided_kernel(
    pictures, weights, biases, result, height, width, CHANNELS: tl.constexpr, PIXELS: tl.constexpr
):  # fmt: skip
    row, column = tl.program_id(0), tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    picture = (row // (height // 2)).to(tl.int64)
    tap, channel = tl.arange(0, 64), tl.arange(0, CHANNELS)
    y = 2 * (row % (height // 2)) - 2 + tap // 6
    x = 2 * column[:, None] - 2 + tap % 6
    on_picture = (tap < 36) & (y >= 0) & (y < height)
    known = on_picture & (x >= 0) & (x < width)
    seen = tl.load(pictures + picture * height * width + y * width + x, mask=known, other=0)
    kernel = tl.load(weights + tap[:, None] * CHANNELS + channel)
    sums = tl.dot(seen.to(kernel.dtype), kernel) + tl.load(biases + channel).to(tl.float32)
    place = result + row.to(tl.int64) * (width // 2) * CHANNELS + column[:, None] * CHANNELS + channel
    tl.store(place, tl.maximum(sums, 0.0).to(kernel.dtype), mask=(column < width // 2)[:, None])


@where_the_first_is
def first_strided(pictures: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
    """A 6x6 convolution with a stride of 2, bias and ReLU of pictures [B, 1, H, W]: [B, C, H / 2, W / 2].

    weights: [64, C], in raster order, of which the last 28 rows are zero; C: a power of 2 from 16.
    """
    batch, _, height, width = pictures.shape
    channels, block = weights.shape[1], 64
    result = _empty_map(weights, batch, channels, height // 2, width // 2)
    _first_strided_kernel[(batch * (height // 2), triton.cdiv(width // 2, block))](
        pictures.contiguous(), weights, biases, result, height, width, CHANNELS=channels, PIXELS=block, num_warps=1
    )
    return result


@triton.jit
def _add_strided_kernel(
    features, weights, logits, height, width, rows, columns, cells, apart, stride, padding,
    SIDE: tl.constexpr, CHANNELS: tl.constexpr, CELLS: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    row, column = cell // columns, cell % columns
    image, row = (row // rows).to(tl.int64), row % rows
    value, pixel = tl.arange(0, AT_ONCE), tl.arange(0, 64)
    first_x = column * stride - padding
    sums = tl.zeros((CELLS, 64), tl.float32)
    for down in range(SIDE):
        y = row * stride - padding + down
        on_map = (cell < cells) & (y >= 0) & (y < height)
        beginning = features + ((image * height + y) * width + first_x) * CHANNELS
        for part in range(SIDE * CHANNELS // AT_ONCE):
            at = part * AT_ONCE + value
            x = first_x[:, None] + at // CHANNELS
            there = on_map[:, None] & (x >= 0) & (x < width)
            seen = tl.load(beginning[:, None] + at, mask=there, other=0.0)
            kernel = tl.load(weights + (down * SIDE * CHANNELS + at)[:, None] * 64 + pixel)
            sums = tl.dot(seen, kernel, sums)
    place = logits + (cell.to(tl.int64) * apart)[:, None] + pixel
    known = (cell < cells)[:, None]
    sums += tl.load(place, mask=known, other=0.0).to(tl.float32)
    tl.store(place, sums.to(logits.dtype.element_ty), mask=known)


@where_the_first_is
def add_strided(logits: Tensor, features: Tensor, weights: Tensor, stride: int, padding: int) -> None:
    """Add a convolution of features [B, C, H, W] to the first 64 of logits [B, at least 64, h, w], in place.

    weights: [k, k * C, 64], rows of the kernel, where k * C is a multiple of AT_ONCE.
    """
    batch, channels, height, width = features.shape
    _, _, rows, columns = logits.shape
    side, cells, block = len(weights), batch * rows * columns, 32 if batch == 1 else 128
    _add_strided_kernel[(triton.cdiv(cells, block),)](
        features.contiguous(memory_format=torch.channels_last), weights, logits, height, width, rows, columns, cells,
        logits.stride(3), stride, padding, SIDE=side, CHANNELS=channels, CELLS=block, AT_ONCE=AT_ONCE,
    )  # fmt: skip


@triton.jit
def _halve_kernel(features, result, width, pixels, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PIXELS: tl.constexpr):
    place, channel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.arange(0, BLOCK)
    known = (place < pixels)[:, None] & (channel < CHANNELS)
    row, column = (place // width).to(tl.int64), place % width
    corner = features + ((4 * row * width + 2 * column) * CHANNELS)[:, None] + channel
    below = corner + 2 * width * CHANNELS
    upper = tl.maximum(tl.load(corner, mask=known), tl.load(corner + CHANNELS, mask=known))
    lower = tl.maximum(tl.load(below, mask=known), tl.load(below + CHANNELS, mask=known))
    tl.store(result + (place.to(tl.int64) * CHANNELS)[:, None] + channel, tl.maximum(upper, lower), mask=known)


@where_the_first_is
def halve(features: Tensor) -> Tensor:
    """The largest of each 2x2 of [B, C, H, W], whose sides are even."""
    batch, channels, height, width = features.shape
    features = features.contiguous(memory_format=torch.channels_last)
    result = _empty_map(features, batch, channels, height // 2, width // 2)
    pixels, block = batch * (height // 2) * (width // 2), triton.next_power_of_2(channels)
    at_once = max(1, VALUES // block)
    _halve_kernel[(triton.cdiv(pixels, at_once),)](
        features, result, width // 2, pixels, CHANNELS=channels, BLOCK=block, PIXELS=at_once
    )
    return result


@triton.jit
def _strongest_kernel(
    every, result, rows, apart, ANSWERS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    row, channel = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64), tl.arange(0, BLOCK)
    known = (row < rows)[:, None] & (channel < CHANNELS)
    first = every + (row * apart)[:, None] + channel
    strongest = tl.load(first, mask=known)
    for answer in tl.static_range(1, ANSWERS):
        strongest = tl.maximum(strongest, tl.load(first + answer * CHANNELS, mask=known))
    tl.store(result + (row * CHANNELS)[:, None] + channel, strongest, mask=known)


@where_the_first_is
def strongest(every: Tensor, answers: int, channels: int) -> Tensor:
    """Of [..., at least answers * channels], side by side, the largest of the answers of each channel: [..., C]."""
    rows = every.flatten(0, -2)
    result = rows.new_empty(*every.shape[:-1], channels)
    block = triton.next_power_of_2(channels)
    at_once = max(1, VALUES // block)
    _strongest_kernel[(triton.cdiv(len(rows), at_once),)](
        rows, result, len(rows), rows.stride(0), ANSWERS=answers, CHANNELS=channels, BLOCK=block, ROWS=at_once
    )
    return result


@triton.jit
def _score_map_kernel(logits, scores, across, cells, apart, REST: tl.constexpr, CELLS: tl.constexpr):
    cell, pixel = (tl.program_id(0) * CELLS + tl.arange(0, CELLS)).to(tl.int64), tl.arange(0, 64)
    known = cell < cells
    values = tl.load(logits + (cell * apart)[:, None] + pixel, mask=known[:, None], other=0.0).to(tl.float32)
    highest = tl.max(values, axis=1)
    if REST:
        rest = tl.load(logits + cell * apart + 64, mask=known, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, rest)
    shares = tl.exp(values - highest[:, None])
    total = tl.sum(shares, axis=1)
    if REST:
        total += tl.exp(rest - highest)
    row, column = cell // across, cell % across
    place = (row * across * 64 + column * 8)[:, None] + pixel // 8 * (8 * across) + pixel % 8
    tl.store(scores + place, shares / total[:, None], mask=known[:, None])


@where_the_first_is
def score_map(logits: Tensor) -> Tensor:
    """See `networks.score_map`."""
    batch, channels, rows, columns = logits.shape
    cells = logits.permute(0, 2, 3, 1).flatten(0, 2)
    scores = logits.new_empty(batch, 8 * rows, 8 * columns, dtype=torch.float32)
    at_once = 16
    _score_map_kernel[(triton.cdiv(len(cells), at_once),)](
        cells, scores, columns, len(cells), cells.stride(0), REST=channels > 64, CELLS=at_once
    )
    return scores


def _empty_map(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
