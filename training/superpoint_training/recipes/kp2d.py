"""KP2D, "Neural outlier rejection for self-supervised keypoint learning" (Tang et al. 2020).

Two views of a picture, a homography apart. Each network output is a keypoint per cell; the first view's are projected
into the second and meet the nearest there. Nothing else is known, and nothing else is needed:

    L = location + 2 * descriptor + score + outliers   (paper, section 3)

All losses are means over the pairs of views of a mean over what counts in a pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from superpoint_ros.networks import KP2D, KP2DConfig
from superpoint_training.examples import PairsConfig
from superpoint_training.loop import LoopConfig
from superpoint_training.recipes.losses import (
    info_nce_loss,
    location_loss,
    mean_of_means,
    score_loss,
    unsupervised_point_loss,
)
from superpoint_training.recipes.pairs import pair_examples, two_views
from superpoint_training.recipes.points import (
    Correspondences,
    View,
    correspond,
    separations,
)
from superpoint_training.recipes.recipe import Recipe

DESCRIPTOR_LOSSES = ('triplet', 'info_nce')


@dataclass(frozen=True)
class KP2DTraining:
    """Training of KP2D on pairs of views without labels.

    Attributes:
        network: used when training starts from nothing.
        mix: weight of every source of pictures, by name.
        pairs: how views are cut out of frames.
        radius: farthest that keypoints lie apart which belong together, and nearest that a negative is, pixels.
        location_weight: factor of `location_loss`.
        descriptor_weight: factor of the descriptor loss; 0 leaves it out (V3 of the paper's table 1).
        descriptor_loss: `triplet`, the paper's, or `info_nce`, which learns in a tenth of the time.
        margin: of the triplet loss.
        temperature: of InfoNCE.
        point_weight: factor of `unsupervised_point_loss`.
        consistency_weight: factor of `score_loss`.
        outlier_weight: factor of `outlier_loss`; only for a network that has an outlier-rejection network.
        outlier_matches: the lowest-scoring so many matches go into it.
        loop: the schedule.
        seed: of the examples and of fresh weights.
    """

    network: KP2DConfig = field(default_factory=KP2DConfig)
    mix: dict[str, float] = field(default_factory=lambda: {'frames': 1.0})
    pairs: PairsConfig = field(default_factory=PairsConfig)
    radius: float = 4.0
    location_weight: float = 1.0
    descriptor_weight: float = 2.0
    descriptor_loss: str = 'triplet'
    margin: float = 0.2
    temperature: float = 0.07
    point_weight: float = 1.0
    consistency_weight: float = 2.0
    outlier_weight: float = 1.0
    outlier_matches: int = 300
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.descriptor_loss not in DESCRIPTOR_LOSSES:
            raise ValueError(f'descriptor_loss must be one of {DESCRIPTOR_LOSSES}, got {self.descriptor_loss!r}')
        if self.outlier_matches < 1:
            raise ValueError(f'outlier_matches must be at least 1, got {self.outlier_matches}')


def triplet_loss(
    anchors: Tensor, positives: Tensor, candidates: Tensor, apart: Tensor, visible: Tensor, margin: float = 0.2
) -> Tensor:
    """The nested triplet loss with the hardest negative (section 3.1).

        L = mean_i max(0, |f_i - f_i+| - min_j |f_i - f_j-| + m)

    Args:
        anchors: `[B, N, D]` unit descriptors at the first view's keypoints.
        positives: `[B, N, D]` the second view's where those lie.
        candidates: `[B, M, D]` the second view's at its own keypoints.
        apart: `[B, N, M]` bool, candidates far enough away to be negatives.
        visible: `[B, N]` bool, anchors that count.
        margin: m.
    """
    positive = vector_norm(anchors - positives, dim=-1)
    negative = descriptor_distances(anchors, candidates).masked_fill(~apart, 2.0).amin(dim=2)
    return mean_of_means((positive - negative + margin).relu(), visible)


def outlier_loss(
    outliers: nn.Module, view: View, other: View, matches: Correspondences, count: int, radius: float
) -> Tensor:
    """The outlier-rejection network's error at telling right matches from wrong ones (section 3.2).

        L = mean_i (r_i - sign(|p*_i - p_j| - radius))^2

    with j the keypoint whose descriptor is nearest to that of i, and r the network's answer from both positions and
    that distance. What would make matches easier to tell apart, positions and descriptors, is told by the gradient.

    Args:
        outliers: an `OutlierNetwork`.
        count: so many matches of the lowest scores are judged.
        radius: of a right match, pixels.
    """
    distances = descriptor_distances(view.describe(view.points), other.describe(other.points))
    distance, nearest = distances.masked_fill(~other.valid[:, None], 2.0).min(dim=2)
    partners = other.points.gather(1, nearest[..., None].expand(-1, -1, 2))
    truth = torch.where(vector_norm(matches.moved - partners, dim=-1) > radius, 1.0, -1.0).detach()
    unseen = view.scores.detach().masked_fill(~matches.visible, 2.0)  # scores are below 1
    chosen = unseen.topk(min(count, unseen.shape[1]), dim=1, largest=False).indices
    inputs = torch.cat([_to_unit(view.points, view), _to_unit(partners, other), distance[..., None]], dim=-1)
    inputs = inputs.gather(1, chosen[..., None].expand(-1, -1, 5))
    valid = matches.visible.gather(1, chosen)
    judged = outliers(inputs.transpose(1, 2), valid)
    return mean_of_means((judged - truth.gather(1, chosen)).square(), valid)


def descriptor_distances(first: Tensor, second: Tensor) -> Tensor:
    """`[B, N, M]` Euclidean distances of unit vectors `[B, N, D]` and `[B, M, D]`, with a gradient also at 0."""
    similarity = first.float() @ second.float().transpose(1, 2)
    return (2 - 2 * similarity).clamp(min=1e-6).sqrt()


def _to_unit(points: Tensor, view: View) -> Tensor:
    height, width = view.size
    return (points + 0.5) / points.new_tensor([width, height]) * 2 - 1


def kp2d_losses(network: KP2D, batch: dict[str, Tensor], config: KP2DTraining) -> dict[str, Tensor]:
    """All losses on a batch of `PairExamples`, and their weighted sum under `total`, in float32 even under autocast."""
    first, second = two_views(network, batch)
    with torch.autocast(first.points.device.type, enabled=False):
        return _losses(network, first, second, batch, config)


def _losses(
    network: KP2D, first: View, second: View, batch: dict[str, Tensor], config: KP2DTraining
) -> dict[str, Tensor]:
    matches = correspond(first, second, batch['a_to_b'], config.radius)
    other_scores = matches.of_other(second.scores)
    mean_scores = (first.scores + other_scores) / 2
    losses = {
        'location': location_loss(matches.distances, matches.together),
        'point': unsupervised_point_loss(mean_scores, matches.distances, matches.together),
        'consistency': score_loss(first.scores, other_scores, matches.together),
    }
    if config.descriptor_weight:
        described = matches.visible & batch['described'][:, None]
        losses['descriptor'] = _descriptor_loss(first, second, matches, described, config)
    if config.outlier_weight and network.outliers is not None:
        losses['outlier'] = outlier_loss(
            network.outliers, first, second, matches, config.outlier_matches, config.radius
        )
    total = sum(getattr(config, f'{name}_weight') * loss for name, loss in losses.items())
    return {'total': total} | losses  # type: ignore[return-value]


def _descriptor_loss(
    first: View, second: View, matches: Correspondences, described: Tensor, config: KP2DTraining
) -> Tensor:
    anchors, positives = first.describe(first.points), second.describe(matches.moved)
    if config.descriptor_loss == 'info_nce':
        return info_nce_loss(anchors, positives, matches.moved, described, temperature=config.temperature)
    apart = (separations(matches.moved, second) >= config.radius) & second.valid[:, None]
    return triplet_loss(anchors, positives, second.describe(second.points), apart, described, config.margin)


KP2D_RECIPE = Recipe(
    config=KP2DTraining,
    build_network=lambda config: KP2D(config.network),
    make_examples=pair_examples,
    make_losses=lambda config: partial(kp2d_losses, config=config),  # type: ignore[arg-type]
    architecture=KP2D.architecture,
)
