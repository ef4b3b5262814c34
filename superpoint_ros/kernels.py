"""Steps between a picture and its features' neighbours as kernels of their own, for GPUs.

Each is one launch where torch takes up to forty, and a launch costs more than what it computes; and it touches memory
once. What they compute, and what their arguments are, is said where torch does the same: `networks.fused`,
`networks.score_map`, `on_device`. They know shapes and numbers alone. Maps are channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

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


@triton.jit
def _highest_around(scores, image, row, column, height, width, known):
    """The highest of the 3x3 around entries of maps."""
    base = scores + image.to(tl.int64) * height * width
    highest = tl.zeros_like(row).to(tl.float32)
    for near in tl.static_range(9):
        y, x = row + near // 3 - 1, column + near % 3 - 1
        there = known & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        highest = tl.maximum(highest, tl.load(base + y * width + x, mask=there, other=0.0))
    return highest


@triton.jit
def _peaks_kernel(
    scores, allowed, result, threshold, height, width, pixels,
    other, rows, columns, other_height, other_width, third, third_rows, third_columns, third_height, third_width,
    least, RADIUS: tl.constexpr, BESIDE: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    known = place < pixels
    row, x = place // width, place % width
    image, y = row // height, row % height
    place = place.to(tl.int64)
    own = tl.load(scores + place, mask=known, other=0.0)
    peak = (own > threshold) & (tl.load(allowed + place, mask=known, other=0) != 0)
    for down in range(-RADIUS, RADIUS + 1):
        near_y = y + down
        on_row = known & (near_y >= 0) & (near_y < height)
        for across in tl.static_range(-RADIUS, RADIUS + 1):
            near_x = x + across
            there = on_row & (near_x >= 0) & (near_x < width)
            near = tl.load(scores + place + down * width + across, mask=there, other=-1.0)
            not_before = (down > 0) | ((down == 0) & (across >= 0))  # of equals the first is a peak
            peak = peak & ((near < own) | ((near == own) & not_before))
    value = own
    if BESIDE >= 1:
        at_y, at_x = tl.load(rows + y).to(tl.int32), tl.load(columns + x).to(tl.int32)
        beside = tl.maximum(_highest_around(other, image, at_y, at_x, other_height, other_width, known), least)
        if BESIDE >= 2:
            at_y, at_x = tl.load(third_rows + y).to(tl.int32), tl.load(third_columns + x).to(tl.int32)
            further = tl.maximum(_highest_around(third, image, at_y, at_x, third_height, third_width, known), least)
            beside = tl.sqrt_rn(beside * further)
        value = tl.sqrt_rn(own * beside)
    tl.store(result + place, tl.where(peak, value, 0.0), mask=known)


def peaks(
    scores: Tensor, allowed: Tensor, threshold: float, radius: int,
    beside: Sequence[tuple[Tensor, Tensor, Tensor]] = (), least: float = 0.0,
) -> Tensor:  # fmt: skip
    """What suppression leaves of [B, H, W] float32, and 0 elsewhere; see `on_device.pixel_candidates`."""
    _, height, width = scores.shape
    result, pixels, block = torch.empty_like(scores), scores.numel(), 512
    others: list[Any] = []
    for other, rows, columns in beside:
        others += [other.contiguous(), rows, columns, *other.shape[1:]]
    others += [scores, scores, scores, 0, 0] * (2 - len(beside))
    _peaks_kernel[(triton.cdiv(pixels, block),)](
        scores.contiguous(), allowed.contiguous().view(torch.uint8), result, threshold, height, width, pixels, *others,
        least, RADIUS=radius, BESIDE=len(beside), PIXELS=block,
    )  # fmt: skip
    return result


@triton.jit
def _log(scores, place, most, tiny):
    return tl.log(tl.maximum(tl.load(scores + tl.minimum(tl.maximum(place, 0), most)), tiny))


@triton.jit
def _locate_kernel(
    scores, places, rows, begins, sizes, keypoints, numbers, entries, candidates, count, tiny,
    MAPS: tl.constexpr, SUBPIXEL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    image, row = tl.program_id(1).to(tl.int64), tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    known = row < count
    chosen = tl.load(rows + image * count + row, mask=known, other=0)
    place = tl.load(places + image * candidates + chosen)
    number = tl.zeros_like(place)
    for other in tl.static_range(1, MAPS):
        number += (place >= tl.load(begins + other)).to(tl.int64)
    width, height = tl.load(sizes + 2 * number), tl.load(sizes + 2 * number + 1)
    within = place - tl.load(begins + number)
    y, x = within // width, within % width
    x_offset, y_offset = tl.zeros_like(x).to(tl.float32), tl.zeros_like(x).to(tl.float32)
    if SUBPIXEL:
        base, most = scores + image * entries, entries - 1
        here = _log(base, place, most, tiny)
        left, right = _log(base, place - 1, most, tiny), _log(base, place + 1, most, tiny)
        above, below = _log(base, place - width, most, tiny), _log(base, place + width, most, tiny)
        falling = _log(base, place - width - 1, most, tiny) + _log(base, place + width + 1, most, tiny)
        rising = _log(base, place - width + 1, most, tiny) + _log(base, place + width - 1, most, tiny)
        gx, gy, gxy = (right - left) / 2, (below - above) / 2, (falling - rising) / 4
        gxx, gyy = left - 2 * here + right, above - 2 * here + below
        determinant = gxx * gyy - gxy * gxy
        interior = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
        fits = interior & (determinant > 1e-9) & (gyy < 0)
        scale = tl.where(fits, determinant, 1.0)
        x_offset = tl.where(fits, (gxy * gy - gyy * gx) / scale, 0.0)
        y_offset = tl.where(fits, (gxy * gx - gxx * gy) / scale, 0.0)
        x_offset = tl.minimum(tl.maximum(x_offset, -0.5), 0.5)
        y_offset = tl.minimum(tl.maximum(y_offset, -0.5), 0.5)
    out = image * count + row
    tl.store(keypoints + 2 * out, x.to(tl.float32) + x_offset, mask=known)
    tl.store(keypoints + 2 * out + 1, y.to(tl.float32) + y_offset, mask=known)
    tl.store(numbers + out, number, mask=known)


def locate(
    scores: Tensor, places: Tensor, rows: Tensor, begins: Tensor, sizes: Tensor, tiny: float, *, subpixel: bool
) -> tuple[Tensor, Tensor]:
    """Of flattened maps [B, N] the keypoints [B, K, 2] in candidates' rows [B, K], and their maps [B, K].

    places: [B, M] int64 of the candidates; begins: [L] int64 of the maps; sizes: [L, 2] int64 (width, height).
    """
    batch, count = rows.shape
    keypoints = scores.new_empty(batch, count, 2)
    numbers = torch.empty_like(rows)
    block = 32
    _locate_kernel[(triton.cdiv(count, block), batch)](
        scores, places, rows.contiguous(), begins, sizes, keypoints, numbers, scores.shape[1], places.shape[1], count,
        tiny, MAPS=len(begins), SUBPIXEL=subpixel, ROWS=block, num_warps=1,
    )  # fmt: skip
    return keypoints, numbers


@triton.jit
def _describe_kernel(
    maps, keypoints, levels, shares, scales, last, corners, widths, result, entries, count, tiny,
    AROUND: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    out, channel = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    known = channel < CHANNELS
    image = maps + out // count * entries * CHANNELS + channel
    x, y = tl.load(keypoints + 2 * out) + 0.5, tl.load(keypoints + 2 * out + 1) + 0.5
    level = tl.load(levels + out)
    blended = tl.zeros((BLOCK,), tl.float32)
    for other in tl.static_range(AROUND):
        at = level * AROUND + other
        last_x, last_y = tl.load(last + 2 * at), tl.load(last + 2 * at + 1)
        there_x = tl.minimum(tl.maximum(x * tl.load(scales + 2 * at) - 0.5, 0.0), last_x)
        there_y = tl.minimum(tl.maximum(y * tl.load(scales + 2 * at + 1) - 0.5, 0.0), last_y)
        column = tl.minimum(tl.floor(there_x), tl.maximum(last_x - 1, 0.0))
        row = tl.minimum(tl.floor(there_y), tl.maximum(last_y - 1, 0.0))
        right, down = there_x - column, there_y - row
        place = row.to(tl.int64) * tl.load(widths + at) + column.to(tl.int64)
        sampled = tl.zeros((BLOCK,), tl.float32)
        for corner in tl.static_range(4):
            across = right if corner % 2 else 1 - right
            weight = across * (down if corner // 2 else 1 - down)
            entry = place + tl.load(corners + 4 * at + corner)
            sampled += weight * tl.load(image + entry * CHANNELS, mask=known, other=0.0).to(tl.float32)
        blended += tl.load(shares + at) * sampled / tl.maximum(tl.sqrt_rn(tl.sum(sampled * sampled)), tiny)
    blended = blended / tl.maximum(tl.sqrt_rn(tl.sum(blended * blended)), tiny)
    tl.store(result + out * CHANNELS + channel, blended.to(result.dtype.element_ty), mask=known)


def describe(
    maps: Tensor, keypoints: Tensor, levels: Tensor,
    shares: Tensor, scales: Tensor, last: Tensor, corners: Tensor, widths: Tensor, tiny: float,
) -> Tensor:  # fmt: skip
    """Of flattened maps [B, N, D] the descriptors [B, K, D] of keypoints; the rest see `on_device.DescriptorMaps`."""
    batch, entries, channels = maps.shape
    count = keypoints.shape[1]
    result = maps.new_empty(batch, count, channels)
    _describe_kernel[(batch * count,)](
        maps.contiguous(), keypoints.contiguous(), levels.contiguous(), shares, scales, last, corners, widths, result,
        entries, count, tiny,
        AROUND=shares.shape[1], CHANNELS=channels, BLOCK=triton.next_power_of_2(channels), num_warps=1,
    )  # fmt: skip
    return result


@triton.jit
def _costed(similarity, query_score, train_score, query_level, train_level, cost):
    """Similarities of features, less what their levels cost; -inf where there is none."""
    apart = tl.abs(query_level - train_level).to(tl.float32)
    both = tl.minimum(query_score, train_score) > 0
    return tl.where(both, similarity.to(tl.float32) - cost * apart, float('-inf'))


@triton.jit
def _back_kernel(
    similarity, query_scores, train_scores, query_levels, train_levels, back, queries, trains, cost,
    QUERIES: tl.constexpr, TRAINS: tl.constexpr,
):  # fmt: skip
    image, train = tl.program_id(1).to(tl.int64), tl.program_id(0) * TRAINS + tl.arange(0, TRAINS)
    there = train < trains
    train_score = tl.load(train_scores + image * trains + train, mask=there, other=0.0)
    train_level = tl.load(train_levels + image * trains + train, mask=there, other=0)
    best = tl.full((TRAINS,), float('-inf'), tl.float32)
    partner = tl.zeros((TRAINS,), tl.int32)
    for first in range(0, queries, QUERIES):
        query = first + tl.arange(0, QUERIES)
        here = query < queries
        query_score = tl.load(query_scores + image * queries + query, mask=here, other=0.0)
        query_level = tl.load(query_levels + image * queries + query, mask=here, other=0)
        place = (image * queries + query)[:, None] * trains + train
        values = tl.load(similarity + place, mask=here[:, None] & there, other=0.0)
        values = _costed(values, query_score[:, None], train_score, query_level[:, None], train_level, cost)
        highest, row = tl.max(values, axis=0, return_indices=True)
        partner = tl.where(highest > best, first + row, partner)
        best = tl.maximum(best, highest)
    tl.store(back + image * trains + train, partner, mask=there)


@triton.jit
def _neighbours_kernel(
    similarity, query_scores, train_scores, query_levels, train_levels, back, partners, bests, seconds,
    queries, trains, cost, TRAINS: tl.constexpr,
):  # fmt: skip
    query, image, train = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, TRAINS)
    out, there = image * queries + query, train < trains
    values = _costed(
        tl.load(similarity + out * trains + train, mask=there, other=0.0),
        tl.load(query_scores + out),
        tl.load(train_scores + image * trains + train, mask=there, other=0.0),
        tl.load(query_levels + out),
        tl.load(train_levels + image * trains + train, mask=there, other=0),
        cost,
    )
    best, partner = tl.max(values, axis=0, return_indices=True)
    second = tl.max(tl.where(train == partner, float('-inf'), values), axis=0)
    mutual = (best > float('-inf')) & (tl.load(back + image * trains + partner) == query)
    tl.store(partners + out, tl.where(mutual, partner, -1).to(tl.int64))
    tl.store(bests + out, best)
    tl.store(seconds + out, second)


def nearest_neighbours(
    similarity: Tensor, query_scores: Tensor, train_scores: Tensor, query_levels: Tensor, train_levels: Tensor,
    cost: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of similarities [B, Q, T] what `on_device.DeviceNeighbours` holds; cost: of a level between two."""
    batch, queries, trains = similarity.shape
    scores = [each.contiguous() for each in (query_scores, train_scores)]
    levels = [each.contiguous() for each in (query_levels, train_levels)]
    back = similarity.new_empty(batch, trains, dtype=torch.int32)
    partner = similarity.new_empty(batch, queries, dtype=torch.int64)
    best, second = (similarity.new_empty(batch, queries, dtype=torch.float32) for _ in range(2))
    _back_kernel[(triton.cdiv(trains, 8), batch)](
        similarity, *scores, *levels, back, queries, trains, cost, QUERIES=256, TRAINS=8
    )
    _neighbours_kernel[(queries, batch)](
        similarity, *scores, *levels, back, partner, best, second, queries, trains, cost,
        TRAINS=triton.next_power_of_2(trains), num_warps=min(8, max(1, triton.next_power_of_2(trains) // 256)),
    )  # fmt: skip
    return partner, best, second


def _empty_map(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
