"""What the recipes that train on pairs of views share: where pairs come from, and a network's two views of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from superpoint_ros.networks import CellNetwork
from superpoint_training.examples import PairExamples
from superpoint_training.recipes.points import View, view_of
from superpoint_training.sources import PairSource, RenderedShapes


def pair_examples(config: Any, sources: Mapping[str, PairSource]) -> PairExamples:
    """Pairs from the sources in the shares of `config.mix`.

    Args:
        config: has `mix`, `pairs` and `seed`; see `SuperPointTraining`.
        sources: by name; Synthetic Shapes are there anyway, as `shapes`.

    Raises:
        ValueError: the mix does not name a source, or names none that is there.
    """
    missing = sorted(set(sources) - set(config.mix))
    if missing:
        raise ValueError(f'the mix of the configuration gives no weight to {", ".join(missing)}')
    there = {'shapes': RenderedShapes(config.pairs.size * 3 // 2)} | dict(sources)
    mixed = [(there[name], weight) for name, weight in config.mix.items() if name in there and weight > 0]
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
