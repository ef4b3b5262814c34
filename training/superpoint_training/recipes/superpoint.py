"""SuperPoint's two trainings: MagicPoint on Synthetic Shapes, then detector and descriptor on labelled frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from superpoint_ros.networks import STRIDE, SuperPoint, SuperPointConfig, sample_at, score_map
from superpoint_ros.pyramid import PER_OCTAVE, step
from superpoint_training.examples import PairsConfig, ShapeExamples, ShapesConfig
from superpoint_training.loop import LoopConfig
from superpoint_training.recipes.geometry import magnification
from superpoint_training.recipes.losses import (
    dense_hinge_loss,
    detector_loss,
    expected_detector_loss,
    info_nce_loss,
    repeatability_loss,
)
from superpoint_training.recipes.pairs import images, pair_examples
from superpoint_training.recipes.recipe import Recipe
from superpoint_training.sources import PairSource

DESCRIPTOR_LOSSES = ('info_nce', 'dense_hinge')


@dataclass(frozen=True)
class MagicPointTraining:
    """Training of the detector alone on Synthetic Shapes (paper section 4)."""

    network: SuperPointConfig = field(default_factory=SuperPointConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0


@dataclass(frozen=True)
class SuperPointTraining:
    """Training of detector and descriptor on pairs of views (paper sections 3 and 6).

    Attributes:
        network: used when training starts from nothing or from weights of another shape.
        mix: weight of every source of pictures, by name, and of no others; `shapes` are Synthetic Shapes, rendered.
        pairs: how views are cut out of frames.
        descriptor_loss: `info_nce`, sparse, or `dense_hinge`, the paper's.
        detector_weight: factor of the detector loss, both views together.
        descriptor_weight: factor of the descriptor loss.
        temperature: of InfoNCE.
        level_negatives: whether InfoNCE also tells a point from itself a level larger or smaller (see
            `superpoint_ros.pyramid`), which the detector finds in the same place. A quarter more time.
        repeatability_weight: factor of `repeatability_loss`, mean of both views; 0 leaves the detector to its labels.
        repeatability_price: of a keypoint in it.
        repeatability_sigma: how near counts as found again, pixels.
        loop: the schedule.
        seed: of the examples and of fresh weights.
    """

    network: SuperPointConfig = field(default_factory=SuperPointConfig)
    mix: dict[str, float] = field(default_factory=lambda: {'frames': 1.0})
    pairs: PairsConfig = field(default_factory=PairsConfig)
    descriptor_loss: str = 'info_nce'
    detector_weight: float = 2.0
    descriptor_weight: float = 1.0
    temperature: float = 0.07
    level_negatives: bool = False
    repeatability_weight: float = 0.0
    repeatability_price: float = 0.5
    repeatability_sigma: float = 1.5
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.descriptor_loss not in DESCRIPTOR_LOSSES:
            raise ValueError(f'descriptor_loss must be one of {DESCRIPTOR_LOSSES}, got {self.descriptor_loss!r}')
        if min(self.temperature, self.repeatability_sigma) <= 0:
            raise ValueError('temperature and repeatability_sigma must be above 0')


def magicpoint_losses(network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The detector's cross-entropy on a batch of `ShapeExamples`."""
    logits, _ = network(images(batch, 'image'))
    return {'total': detector_loss(logits, batch['cells'], batch['valid'])}


def superpoint_losses(network: nn.Module, batch: dict[str, Tensor], config: SuperPointTraining) -> dict[str, Tensor]:
    """Equation 1 of the paper on a batch of `PairExamples`: both detector losses and the descriptor loss."""
    logits, descriptors = network(images(batch, 'image_a', 'image_b'))
    kind, loss = ('expected', expected_detector_loss) if config.pairs.label_sigma else ('cells', detector_loss)
    labels, valid = (torch.cat([batch[f'{name}_a'], batch[f'{name}_b']]) for name in (kind, 'valid'))
    detector = loss(logits, labels, valid)
    first, second = descriptors.chunk(2)
    if config.descriptor_loss == 'dense_hinge':
        counted = batch['valid_b'].flatten(1) & batch['described'][:, None]
        descriptor = dense_hinge_loss(first, second, batch['centres_in_b'], counted)
    else:
        sampled_a, sampled_b = _sample(first, batch['points_a']), _sample(second, batch['points_b'])
        rivals = None
        if config.level_negatives:
            sampled_b, rivals = _of_like_size(network, batch, sampled_b)
        descriptor = info_nce_loss(
            sampled_a, sampled_b, batch['points_b'], batch['points_valid'], temperature=config.temperature,
            rivals=rivals,
        )  # fmt: skip
    losses = {'detector': detector, 'descriptor': descriptor}
    total = config.detector_weight * detector + config.descriptor_weight * descriptor
    if config.repeatability_weight:
        losses['repeatability'] = _repeatability(logits, batch, config)
        total = total + config.repeatability_weight * losses['repeatability']
    return {'total': total} | losses


def _sample(dense: Tensor, points: Tensor) -> Tensor:
    return normalize(sample_at(dense.float(), points, STRIDE), dim=-1)


def _of_like_size(network: nn.Module, batch: dict[str, Tensor], second: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptors `[B, N, D]` of points in one of the second view's levels 0 and 1, and those in the other one.

    The one is nearer in size to what the first view shows. `second` are the descriptors in level 0.
    """
    pictures = images(batch, 'image_b')
    side = round(pictures.shape[-1] * step(PER_OCTAVE) / STRIDE) * STRIDE
    factor = side / pictures.shape[-1]
    smaller = interpolate(pictures, (side, side), mode='bilinear', antialias=True)
    _, descriptors = network(smaller.contiguous(memory_format=torch.channels_last))
    below = _sample(descriptors, (batch['points_b'] + 0.5) * factor - 0.5)
    is_like = (magnification(batch['points_a'], batch['a_to_b']) < factor**-0.5)[..., None]
    return torch.where(is_like, second, below), torch.where(is_like, below, second)


def _repeatability(logits: Tensor, batch: dict[str, Tensor], config: SuperPointTraining) -> Tensor:
    a, b = score_map(logits).chunk(2)
    a_to_b, valid_a, valid_b = batch['a_to_b'], batch['valid_a'], batch['valid_b']
    how = {'sigma': config.repeatability_sigma, 'price': config.repeatability_price}
    forth = repeatability_loss(a, b, a_to_b, valid_a, valid_b, **how)
    back = repeatability_loss(b, a, torch.linalg.inv(a_to_b), valid_b, valid_a, **how)
    return (forth + back) / 2


def _shape_examples(config: MagicPointTraining, _sources: Mapping[str, PairSource]) -> ShapeExamples:
    return ShapeExamples(config.shapes, config.seed)


MAGICPOINT = Recipe(
    config=MagicPointTraining,
    build_network=lambda config: SuperPoint(config.network),
    make_examples=_shape_examples,
    make_losses=lambda config: magicpoint_losses,
    architecture=SuperPoint.architecture,
)
SUPERPOINT = Recipe(
    config=SuperPointTraining,
    build_network=lambda config: SuperPoint(config.network),
    make_examples=pair_examples,
    make_losses=lambda config: partial(superpoint_losses, config=config),
    architecture=SuperPoint.architecture,
    needs_labels=True,
)
