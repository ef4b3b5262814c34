"""UnsuperPoint (Christiansen, Kragh, Brodskiy, Karstoft 2019): positions regressed, scores learned from their success.

    L = usp * L_usp + uni_xy * L_uni_xy + desc * L_desc + decorr * (L_decorr_a + L_decorr_b)   (paper, equation 2)
    L_usp = position * L_position + score * L_score + L_point   (equation 5)

The paper sums over the pairs of keypoints; here all losses are means over them, as in both re-implementations known,
since their number differs from picture to picture; then means over the pairs of views.

What keeps a network from answering 0 everywhere? With all scores 0 the score and the point loss are 0, but 0 is not
their minimum: the point loss falls below it as soon as keypoints that are found nearer than the mean score higher than
the others, and at scores of 0 its gradient, `(d_k - mean(d)) / 2` on each score, points there. All positions 0, the
same corner of every cell, form a lattice that no homography maps onto itself, so that the position loss is not 0, and
the uniform loss is at its worst, since the relative positions are all equal instead of spread. All descriptors 0, or
equal, have the full hinge of every right pair or of every wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from superpoint_ros.networks import STRIDE, CellNetwork, UnsuperPoint, UnsuperPointConfig, cell_centres
from superpoint_training.examples import PairsConfig
from superpoint_training.loop import LoopConfig
from superpoint_training.recipes.geometry import FAR
from superpoint_training.recipes.losses import (
    hinge,
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

DESCRIPTOR_LOSSES = ('hinge', 'info_nce')


@dataclass(frozen=True)
class UnsuperPointTraining:
    """Training of UnsuperPoint on pairs of views without labels.

    Attributes:
        network: used when training starts from nothing.
        mix: weight of every source of pictures, by name.
        pairs: how views are cut out of frames.
        radius: farthest that keypoints lie apart which belong together, pixels.
        position_weight, score_weight, point_weight: factors of the three parts of L_usp.
        uniform_weight: factor of `uniform_loss`.
        descriptor_loss: `hinge`, the paper's, or `info_nce`, which needs a `descriptor_weight` of about 1.
        descriptor_weight: its factor.
        positive_weight, positive_margin, negative_margin: lambda_d, m_p and m_n of the hinge.
        temperature: of InfoNCE.
        decorrelation_weight: factor of `decorrelation_loss`.
        loop: the schedule.
        seed: of the examples and of fresh weights.
    """

    network: UnsuperPointConfig = field(default_factory=UnsuperPointConfig)
    mix: dict[str, float] = field(default_factory=lambda: {'frames': 1.0})
    pairs: PairsConfig = field(default_factory=PairsConfig)
    radius: float = 4.0
    position_weight: float = 1.0
    score_weight: float = 2.0
    point_weight: float = 1.0
    uniform_weight: float = 100.0
    descriptor_loss: str = 'hinge'
    descriptor_weight: float = 0.001
    positive_weight: float = 250.0
    positive_margin: float = 1.0
    negative_margin: float = 0.2
    temperature: float = 0.07
    decorrelation_weight: float = 0.03
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.descriptor_loss not in DESCRIPTOR_LOSSES:
            raise ValueError(f'descriptor_loss must be one of {DESCRIPTOR_LOSSES}, got {self.descriptor_loss!r}')


def uniform_loss(positions: Tensor, valid: Tensor) -> Tensor:
    """Relative positions are spread evenly over the cell (section 4.2, equation 13).

        L = mean_i (x_(i) - (i - 1) / (M - 1))^2,   x_(1) <= ... <= x_(M) sorted, the same for y, added

    Sorting is differentiable: each value gets the gradient of its place. Zero for any order of an even ramp, and a
    third for each axis when all positions are 0.

    Args:
        positions: `[B, N, 2]` (x, y) in [0, 1], relative to the cells.
        valid: `[B, N]` bool, those that count.
    """
    count = valid.sum(1)[:, None, None]
    ordered = positions.masked_fill(~valid[..., None], 2.0).sort(dim=1).values
    rank = torch.arange(positions.shape[1], device=positions.device)[None, :, None]
    errors = (ordered - rank / (count - 1).clamp(min=1)).square().sum(dim=2)
    return mean_of_means(errors, rank[..., 0] < count[..., 0])


def hinge_loss(
    first: Tensor, second: Tensor, separation: Tensor, visible: Tensor, config: UnsuperPointTraining
) -> Tensor:
    """The descriptor loss, SuperPoint's on regressed positions (section 4.3, equations 14 and 15).

        L = mean_ij lambda_d * c_ij * max(0, m_p - f_i.f_j) + (1 - c_ij) * max(0, f_i.f_j - m_n)

    with c = 1 where keypoint i, projected, is at most 8 px from keypoint j.

    Args:
        first, second: `[B, N, D]` and `[B, M, D]` unit descriptors at the keypoints of both views.
        separation: `[B, N, M]` pixels between them, `FAR` for those that do not count.
        visible: `[B, N]` bool, of the first view's, those that count.
    """
    similarity = first @ second.transpose(1, 2)
    hinges = hinge(
        similarity, separation <= STRIDE, config.positive_weight, config.positive_margin, config.negative_margin
    )
    return mean_of_means(hinges, visible[..., None] & (separation < FAR))


def decorrelation_loss(descriptors: Tensor, valid: Tensor) -> Tensor:
    """Dimensions of the descriptor say different things (section 4.4, equations 16 and 17; squared as in L2-Net).

        L = sum_(i != j) r_ij^2 / (D (D - 1))

    with r the correlation of dimensions i and j over a picture's descriptors; 0 for independent ones, 1 when all are
    the same. The paper correlates the two views' descriptors apart and adds: so does the caller.

    Args:
        descriptors: `[B, N, D]`.
        valid: `[B, N]` bool.
    """
    counted = valid[..., None].to(descriptors.dtype)
    mean = (descriptors * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
    centred = (descriptors - mean) * counted
    covariance = centred.transpose(1, 2) @ centred
    variance = covariance.diagonal(dim1=1, dim2=2)
    scale = (variance[:, :, None] * variance[:, None]).clamp(min=1e-12)
    dimension = descriptors.shape[2]
    off_diagonal = 1 - torch.eye(dimension, device=descriptors.device)
    return (covariance.square() / scale * off_diagonal).sum((1, 2)).mean() / max(1, dimension * (dimension - 1))


def unsuperpoint_losses(
    network: CellNetwork, batch: dict[str, Tensor], config: UnsuperPointTraining
) -> dict[str, Tensor]:
    """All losses on a batch of `PairExamples`, and their weighted sum under `total`, in float32 even under autocast."""
    first, second = two_views(network, batch)
    with torch.autocast(first.points.device.type, enabled=False):
        return _losses(first, second, batch, config)


def _losses(first: View, second: View, batch: dict[str, Tensor], config: UnsuperPointTraining) -> dict[str, Tensor]:
    matches = correspond(first, second, batch['a_to_b'], config.radius)
    other_scores = matches.of_other(second.scores)
    mean_scores = (first.scores + other_scores) / 2
    descriptors = [view.describe(view.points) for view in (first, second)]
    described = matches.visible & batch['described'][:, None]
    losses = {
        'position': location_loss(matches.distances, matches.together),
        'score': score_loss(first.scores, other_scores, matches.together),
        'point': unsupervised_point_loss(mean_scores, matches.distances, matches.together),
        'uniform': (_uniform(first) + _uniform(second)) / 2,
        'descriptor': _descriptor_loss(first, second, descriptors, matches, described, config),
        'decorrelation': sum(
            decorrelation_loss(each, view.valid) for each, view in zip(descriptors, (first, second), strict=True)
        ),
    }
    total = sum(getattr(config, f'{name}_weight') * loss for name, loss in losses.items())
    return {'total': total} | losses  # type: ignore[return-value,dict-item]


def _uniform(view: View) -> Tensor:
    height, width = view.size
    centres = cell_centres(height // STRIDE, width // STRIDE, view.points.device).flatten(0, 1)
    return uniform_loss((view.points - centres) / STRIDE + 0.5, view.valid)


def _descriptor_loss(
    first: View,
    second: View,
    descriptors: list[Tensor],
    matches: Correspondences,
    described: Tensor,
    config: UnsuperPointTraining,
) -> Tensor:
    if config.descriptor_loss == 'hinge':
        return hinge_loss(descriptors[0], descriptors[1], separations(matches.moved, second), described, config)
    positives = second.describe(matches.moved)
    return info_nce_loss(descriptors[0], positives, matches.moved, described, temperature=config.temperature)


UNSUPERPOINT = Recipe(
    config=UnsuperPointTraining,
    build_network=lambda config: UnsuperPoint(config.network),
    make_examples=pair_examples,
    make_losses=lambda config: partial(unsuperpoint_losses, config=config),
    architecture=UnsuperPoint.architecture,
)
