"""GoodPoint (Belikov & Potapov 2021): a detector that learns from what it and its descriptor already agree on.

Each step keypoints are taken from both views of a picture; those of the first are projected into the second, and where
the nearest keypoint by position is also the nearest by descriptor both views are told to put one there.

    L = L_keypoints + L_heatmap + L_descriptor   (the paper's training loss)

All losses are means over the pairs of views of what each pair comes to. Docstrings cite the paper by the terms of its
loss; its section numbers were not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, normalize

from superpoint_ros.networks import STRIDE, GoodPoint, GoodPointConfig, sample_at, score_map
from superpoint_training.examples import PairsConfig
from superpoint_training.loop import LoopConfig
from superpoint_training.recipes.geometry import FAR, blur, by_pixel, gaussian, is_inside, look_up, pixel_grid, warp
from superpoint_training.recipes.losses import info_nce_loss, mean_of_means
from superpoint_training.recipes.pairs import images, pair_examples
from superpoint_training.recipes.recipe import Recipe

DESCRIPTOR_LOSSES = ('three_part', 'info_nce')
TINY = 1e-7  # keeps logarithms finite


@dataclass(frozen=True)
class GoodPointTraining:
    """Training of GoodPoint on pairs of views without labels.

    Attributes:
        network: used when training starts from nothing.
        mix: weight of every source of pictures, by name.
        pairs: how views are cut out of frames; its photometric changes are the paper's six noise filters.
        cell, other_cell: side of the squares whose maximum is a keypoint, in the first and in the second view, pixels.
        radius: theta_dist, farthest that two keypoints lie apart which agree, pixels.
        keypoint_weight: factor of `keypoint_loss`.
        heatmap_weight: lambda_h, factor of `heatmap_loss`.
        heatmap_sigma: of the blur, pixels.
        descriptor_weight: factor of the descriptor loss.
        descriptor_loss: `three_part`, the paper's, or `info_nce`.
        wrong_distance: a wrong pair of keypoints counts when so far apart, pixels.
        temperature: of InfoNCE.
        loop: the schedule.
        seed: of the examples and of fresh weights.
    """

    network: GoodPointConfig = field(default_factory=GoodPointConfig)
    mix: dict[str, float] = field(default_factory=lambda: {'frames': 1.0})
    pairs: PairsConfig = field(default_factory=PairsConfig)
    cell: int = 32
    other_cell: int = 16
    radius: float = 4.0
    keypoint_weight: float = 1.0
    heatmap_weight: float = 2000.0
    heatmap_sigma: float = 1.0
    descriptor_weight: float = 1.0
    descriptor_loss: str = 'three_part'
    wrong_distance: float = 7.0
    temperature: float = 0.07
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.descriptor_loss not in DESCRIPTOR_LOSSES:
            raise ValueError(f'descriptor_loss must be one of {DESCRIPTOR_LOSSES}, got {self.descriptor_loss!r}')
        if self.pairs.size % self.cell or self.pairs.size % self.other_cell:
            raise ValueError(f'pairs.size must be a multiple of cell and other_cell, got {self.pairs.size}')


class Agreement(NamedTuple):
    """Keypoints of the first view and what became of them in the second; N of them, M keypoints there.

    Attributes:
        points: `[B, N, 2]` (x, y) of the first view's keypoints, pixels.
        moved: `[B, N, 2]` projected into the second.
        visible: `[B, N]` bool, those that the second shows.
        nearest: `[B, N]` int64, the second's keypoint whose descriptor is nearest.
        separation: `[B, N]` pixels from where the point was projected to that keypoint.
        agreed: `[B, N]` bool: it is the nearest by position, too, and within the radius.
        targets, other_targets: `[B, N, 2]` where the keypoint should be in the first and the second view: in the second
            halfway between the projected and the nearest, in the first that projected back.
    """

    points: Tensor
    moved: Tensor
    visible: Tensor
    nearest: Tensor
    separation: Tensor
    agreed: Tensor
    targets: Tensor
    other_targets: Tensor


def cell_maxima(heatmap: Tensor, cell: int) -> Tensor:
    """The pixel with the largest value in each square of `cell` pixels: `[B, H, W]` to `[B, N, 2]` (x, y) float32."""
    width = heatmap.shape[2]
    _, flat = max_pool2d(heatmap[:, None], cell, return_indices=True)
    flat = flat.flatten(1)
    return torch.stack([flat % width, flat.div(width, rounding_mode='floor')], dim=-1).float()


@torch.no_grad()
def agree(
    points: Tensor,
    others: Tensor,
    descriptors: Tensor,
    other_descriptors: Tensor,
    homography: Tensor,
    valid: Tensor,
    other_valid: Tensor,
    radius: float,
) -> Agreement:
    """Find the keypoints that both views agree on, by position and by descriptor (the paper's targets, K').

    Args:
        points, others: `[B, N, 2]`, `[B, M, 2]` keypoints of the two views, pixels.
        descriptors, other_descriptors: `[B, N, D]`, `[B, M, D]` theirs, unit length.
        homography: `[B, 3, 3]`, the first view's pixels to the second's.
        valid, other_valid: `[B, H, W]` bool, pixels of the views that show the picture.
        radius: theta_dist.
    """
    size = other_valid.shape[1], other_valid.shape[2]
    moved = warp(points, homography)
    visible = look_up(valid, points) & is_inside(moved, size) & look_up(other_valid, moved)
    others_valid = look_up(other_valid, others)
    distances = torch.cdist(moved, others).masked_fill(~others_valid[:, None], FAR)
    similarity = (descriptors @ other_descriptors.transpose(1, 2)).masked_fill(~others_valid[:, None], -2)
    nearest = similarity.argmax(dim=2)
    separation = distances.gather(2, nearest[..., None])[..., 0]
    agreed = visible & (distances.argmin(dim=2) == nearest) & (separation <= radius)
    other_targets = (moved + others.gather(1, nearest[..., None].expand(-1, -1, 2))) / 2
    targets = warp(other_targets, torch.linalg.inv(homography))
    return Agreement(points, moved, visible, nearest, separation, agreed, targets, other_targets)


def keypoint_loss(heatmap: Tensor, targets: Tensor, agreed: Tensor) -> Tensor:
    """Minus half the mean log probability of the agreed keypoints, of one view (training loss, L_keypoints).

    `L = -1/2 mean_k log P[K'_k]`, to be added for both views. 0 for a view that is sure of all of them.

    Args:
        heatmap: `[B, H, W]` probabilities.
        targets: `[B, N, 2]` (x, y), pixels.
        agreed: `[B, N]` bool, those that count, inside the picture.
    """
    inside = agreed & is_inside(targets, (heatmap.shape[1], heatmap.shape[2]))
    return mean_of_means(-0.5 * (look_up(heatmap, targets) + TINY).log(), inside)


def heatmap_loss(heatmap: Tensor, other: Tensor, homography: Tensor, valid: Tensor, other_valid: Tensor,
                 sigma: float) -> Tensor:  # fmt: skip
    """Both views' blurred heatmaps are one, seen through the homography (training loss, L_heatmap).

    `L = mean_p (G * P[p] - G * P_h[H p])^2` over the pixels p that both show; 0 for a detector that moves with the
    picture. Nearest pixels are compared; the blur makes that no matter.

    Args:
        heatmap, other: `[B, H, W]` probabilities of the two views.
        homography: `[B, 3, 3]`, the first view's pixels to the second's.
        valid, other_valid: `[B, H, W]` bool.
        sigma: of the blur G, a Gaussian of sum 1, pixels.
    """
    height, width = heatmap.shape[1:]
    moved = warp(pixel_grid(height, width, homography), homography)
    shared = valid.flatten(1) & is_inside(moved, (height, width)) & look_up(other_valid, moved)
    profile = gaussian(sigma, heatmap)
    profile = profile / profile.sum()
    errors = blur(heatmap, profile).flatten(1) - look_up(blur(other, profile), moved)
    return mean_of_means(errors.square(), shared)


def three_part_loss(
    descriptors: Tensor, other_descriptors: Tensor, strangers: Tensor, agreement: Agreement, wrong_distance: float
) -> Tensor:
    """The descriptor loss, with g the cosine similarity (training loss, L_descriptor).

        L = mean_correct (1 - g) + mean_wrong max(0, g) + mean_random max(0, g)

    Correct are the pairs that agree; wrong those whose descriptors are nearest though they lie more than
    `wrong_distance` apart; random a keypoint and a stranger to it. 0 when correct pairs are equal and all others
    orthogonal.

    Args:
        descriptors: `[B, N, D]` unit descriptors of the first view's keypoints.
        other_descriptors: `[B, M, D]` of the second's.
        strangers: `[B, N, D]` of keypoints of the second that are none of the partners.
    """
    partners = other_descriptors.gather(1, agreement.nearest[..., None].expand(-1, -1, other_descriptors.shape[2]))
    similarity = (descriptors * partners).sum(dim=-1)
    wrong = agreement.visible & (agreement.separation > wrong_distance)
    return (
        mean_of_means(1 - similarity, agreement.agreed)
        + mean_of_means(similarity.relu(), wrong)
        + mean_of_means((descriptors * strangers).sum(dim=-1).relu(), agreement.visible)
    )


def goodpoint_losses(network: nn.Module, batch: dict[str, Tensor], config: GoodPointTraining) -> dict[str, Tensor]:
    """All losses on a batch of `PairExamples`, and their weighted sum under `total`, in float32 even under autocast.

    `agreed` beside them is no loss but the share of visible keypoints that both views agree on.
    """
    logits, descriptor_map = network(images(batch, 'image_a', 'image_b'))
    with torch.autocast(logits.device.type, enabled=False):
        return _losses(score_map(logits), descriptor_map.float(), batch, config)


def _losses(
    heatmaps: Tensor, descriptor_maps: Tensor, batch: dict[str, Tensor], config: GoodPointTraining
) -> dict[str, Tensor]:
    heatmap, other_heatmap = heatmaps.chunk(2)
    maps = descriptor_maps.chunk(2)
    valid, other_valid = (by_pixel(batch[name]) for name in ('valid_a', 'valid_b'))
    points, others = cell_maxima(heatmap.detach(), config.cell), cell_maxima(other_heatmap.detach(), config.other_cell)
    described, others_described = (_describe(*each) for each in zip(maps, (points, others), strict=True))
    homography = batch['a_to_b']
    found = agree(points, others, described, others_described, homography, valid, other_valid, config.radius)
    losses = {
        'keypoint': keypoint_loss(heatmap, found.targets, found.agreed)
        + keypoint_loss(other_heatmap, found.other_targets, found.agreed),
        'heatmap': heatmap_loss(heatmap, other_heatmap, homography, valid, other_valid, config.heatmap_sigma),
    }
    if config.descriptor_loss == 'info_nce':
        losses['descriptor'] = _info_nce(maps, others, batch, valid, other_valid, config.temperature)
    else:
        strangers = others_described[:, _half_a_picture_away(points.shape[1], others.shape[1])]
        has_texture = batch['described'][:, None]
        textured = found._replace(visible=found.visible & has_texture, agreed=found.agreed & has_texture)
        losses['descriptor'] = three_part_loss(described, others_described, strangers, textured, config.wrong_distance)
    total = sum(getattr(config, f'{name}_weight') * loss for name, loss in losses.items())
    share = (found.agreed.sum(1) / found.visible.sum(1).clamp(min=1)).mean()
    return {'total': total} | losses | {'agreed': share}  # type: ignore[return-value]


def _info_nce(
    maps: tuple[Tensor, ...],
    others: Tensor,
    batch: dict[str, Tensor],
    valid: Tensor,
    other_valid: Tensor,
    temperature: float,
) -> Tensor:
    """InfoNCE at the second view's keypoints and where they lie in the first, and at the examples' own points."""
    moved = warp(others, torch.linalg.inv(batch['a_to_b']))
    size = valid.shape[1], valid.shape[2]
    visible = look_up(other_valid, others) & is_inside(moved, size) & look_up(valid, moved)
    first, second = torch.cat([moved, batch['points_a']], dim=1), torch.cat([others, batch['points_b']], dim=1)
    counted = torch.cat([visible & batch['described'][:, None], batch['points_valid']], dim=1)
    pairs = _describe(maps[0], first), _describe(maps[1], second)
    return info_nce_loss(*pairs, second, counted, temperature=temperature)


def _half_a_picture_away(count: int, others: int) -> list[int]:
    """For each of `count` keypoints in raster order one of `others` in the same order, far from it."""
    return [(index * others // count + others // 2) % others for index in range(count)]


def _describe(descriptor_map: Tensor, points: Tensor) -> Tensor:
    return normalize(sample_at(descriptor_map, points, STRIDE), dim=-1, eps=1e-6)


GOODPOINT = Recipe(
    config=GoodPointTraining,
    build_network=lambda config: GoodPoint(config.network),
    make_examples=pair_examples,
    make_losses=lambda config: partial(goodpoint_losses, config=config),
    architecture=GoodPoint.architecture,
)
