"""From score maps to features and their neighbours: `on_device` has the same by torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from superpoint_ros.kernels.launching import where_the_first_is


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


@where_the_first_is
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


@where_the_first_is
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


@where_the_first_is
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


@where_the_first_is
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
