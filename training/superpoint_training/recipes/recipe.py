"""What a paper must give so that the loop can train it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from superpoint_ros.networks import KeypointNetwork
from superpoint_training.accumulation import ComputeLosses
from superpoint_training.examples import Example
from superpoint_training.sources import PairSource


@dataclass(frozen=True)
class Recipe:
    """A paper's training.

    Attributes:
        config: dataclass of its settings, read from YAML; must have `loop`, a `LoopConfig`, and `seed`.
        build_network: a fresh network from the settings.
        make_examples: numbered examples from the settings and the sources of pictures by name; example i must be a
            function of the seed and i alone.
        make_losses: from the settings, the function from a network and a batch to named losses: each a mean over
            the batch's examples, the one to minimise under `total`.
        architecture: of the network, as in the metadata of weights.
        needs_labels: whether frames must be labelled; else each serves as it is, if there are any.
    """

    config: type
    build_network: Callable[[Any], KeypointNetwork]
    make_examples: Callable[[Any, Mapping[str, PairSource]], Dataset[Example]]
    make_losses: Callable[[Any], ComputeLosses]
    architecture: str
    needs_labels: bool = False
