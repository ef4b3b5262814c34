"""What the recipes that train on pairs of views share: where pairs come from, and a network's two views of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from superpoint_ros.networks import CellNetwork
from superpoint_training.examples import PairExamples
from superpoint_training.recipes.points import View, view_of
from superpoint_training.sources import PairSource, RenderedShapes

SHAPES = 'shapes'
"""The source that every run has: Synthetic Shapes."""


def check_mix(mix: Mapping[str, float], sources: Iterable[str]) -> None:
    """Whether a mix is of the sources that a run has, `SHAPES` or not, and nothing else.

    Raises:
        ValueError: it does not name a source, names one that is not there, or has weights that are none.
    """
    missing = sorted(set(sources) - set(mix))
    if missing:
        raise ValueError(f'the mix of the configuration gives no weight to {", ".join(missing)}')
    there = [*sources, SHAPES]
    unknown = [name for name in mix if name not in there]
    if unknown:
        raise ValueError(
            f'the mix of the configuration names {", ".join(unknown)}, which is no source of pictures here; there are '
            f'{", ".join(there)}'
        )
    if not all(weight >= 0 for weight in mix.values()) or not any(mix.values()):
        raise ValueError(f'the weights of the mix must not be negative, nor all 0, got {dict(mix)}')


def pair_examples(config: Any, sources: Mapping[str, PairSource]) -> PairExamples:
    """Pairs from the sources in the shares of `config.mix`.

    Args:
        config: has `mix`, `pairs` and `seed`; see `SuperPointTraining`.
        sources: by name; Synthetic Shapes are there anyway, as `SHAPES`.

    Raises:
        ValueError: see `check_mix`.
    """
    check_mix(config.mix, sources)
    there = {SHAPES: RenderedShapes(config.pairs.size * 3 // 2)} | dict(sources)
    mixed = [(there[name], weight) for name, weight in config.mix.items() if weight > 0]
    return PairExamples(mixed, config.pairs, config.seed)


def images(batch: Mapping[str, Tensor], *names: str) -> Tensor:
    """Pictures of a batch, one name after the other, as a network takes them."""
    stacked = torch.cat([batch[name] for name in names])
    return (stacked.float() / 255).contiguous(memory_format=torch.channels_last)


def two_views(network: CellNetwork, batch: Mapping[str, Tensor]) -> tuple[View, View]:
    """What a network says about both views of a batch of `PairExamples`."""
    scores, offsets, descriptors = (part.chunk(2) for part in network(images(batch, 'image_a', 'image_b')))
    first, second = (
        view_of(scores[i], offsets[i], descriptors[i], network.descriptor_stride, batch[valid])
        for i, valid in enumerate(('valid_a', 'valid_b'))
    )
    return first, second
