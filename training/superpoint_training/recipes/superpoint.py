"""SuperPoint's two trainings: MagicPoint on Synthetic Shapes, then detector and descriptor on labelled frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from superpoint_ros.networks import STRIDE, SuperPoint, SuperPointConfig, sample_at, score_map
from superpoint_training.examples import PairsConfig, PairSource, ShapeExamples, ShapesConfig
from superpoint_training.loop import LoopConfig
from superpoint_training.recipes.losses import dense_hinge_loss, detector_loss, info_nce_loss, repeatability_loss
from superpoint_training.recipes.pairs import images, pair_examples
from superpoint_training.recipes.recipe import Recipe

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
        mix: weight of every source of pictures, by name; `shapes` are Synthetic Shapes, rendered, and a source
            that is not there leaves its share to the others.
        pairs: how views are cut out of frames.
        descriptor_loss: `info_nce`, sparse, or `dense_hinge`, the paper's.
        detector_weight: factor of the detector loss, both views together.
        descriptor_weight: factor of the descriptor loss.
        temperature: of InfoNCE.
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
    repeatability_weight: float = 0.0
    repeatability_price: float = 0.5
    repeatability_sigma: float = 1.5
    loop: LoopConfig = field(default_factory=LoopConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.descriptor_loss not in DESCRIPTOR_LOSSES:
            raise ValueError(f'descriptor_loss must be one of {DESCRIPTOR_LOSSES}, got {self.descriptor_loss!r}')


def magicpoint_losses(network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The detector's cross-entropy on a batch of `ShapeExamples`."""
    logits, _ = network(images(batch, 'image'))
    return {'total': detector_loss(logits, batch['cells'], batch['valid'])}


def superpoint_losses(network: nn.Module, batch: dict[str, Tensor], config: SuperPointTraining) -> dict[str, Tensor]:
    """Equation 1 of the paper on a batch of `PairExamples`: both detector losses and the descriptor loss."""
    logits, descriptors = network(images(batch, 'image_a', 'image_b'))
    cells, valid = (torch.cat([batch[f'{kind}_a'], batch[f'{kind}_b']]) for kind in ('cells', 'valid'))
    detector = detector_loss(logits, cells, valid)
    first, second = descriptors.chunk(2)
    if config.descriptor_loss == 'dense_hinge':
        counted = batch['valid_b'].flatten(1) & batch['described'][:, None]
        descriptor = dense_hinge_loss(first, second, batch['centres_in_b'], counted)
    else:
        sampled_a, sampled_b = (
            normalize(sample_at(dense.float(), batch[points], STRIDE), dim=-1)
            for dense, points in ((first, 'points_a'), (second, 'points_b'))
        )
        descriptor = info_nce_loss(
            sampled_a, sampled_b, batch['points_b'], batch['points_valid'], temperature=config.temperature
        )
    losses = {'detector': detector, 'descriptor': descriptor}
    total = config.detector_weight * detector + config.descriptor_weight * descriptor
    if config.repeatability_weight:
        losses['repeatability'] = _repeatability(logits, batch, config)
        total = total + config.repeatability_weight * losses['repeatability']
    return {'total': total} | losses


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
)
