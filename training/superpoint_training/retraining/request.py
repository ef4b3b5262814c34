"""What a retraining is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from superpoint_training.adaptation import LabelConfig
from superpoint_training.harvest import HarvestConfig
from superpoint_training.peers import LEVELS
from superpoint_training.recipes.pairs import check_mix
from superpoint_training.retraining.proof import WATCHED, ProofConfig

SOURCES = 'robot', 'general'
"""Of the pictures that are trained on, by the names that the mix knows."""


@dataclass(frozen=True)
class Request:
    """What is to be retrained, on what, and how.

    Attributes:
        recordings: see `harvest`.
        topics: see `harvest`.
        out: weights to write.
        start: weights to begin with, by name or path; 'none' begins with fresh ones.
        labeller: weights that label the frames in the first round, and are to be surpassed; those of `start`, unless
            that is 'none'.
        recipe: of `RECIPES`.
        training: of the recipe's kind.
        harvest, labels, proof: of the other stages.
        short_side: of the pictures that are labelled and trained on; larger ones are reduced.
        rounds: of labelling and training; each labels by what the one before trained.
        blend: how far to go from the old weights to the trained ones, 0 to 1: tried in this order until weights are
            better, since nearer ones forget less. Fresh ones are taken as they are.
        minutes: that the training of one round may take; None trains all steps of the configuration.
        general: folder or tar of pictures to mix in; None takes those that the package ships, but for those that judge.
        general_limit: use so many of them at most.
        general_threshold: as `labels.threshold`, for them.
        general_pairs: folder of homography pairs to judge forgetting by; None takes views of shipped pictures that are
            not mixed in.
        protocol: of the figures.
        levels: sizes at which the front-end will look at pictures, which is how weights are judged.
        jobs: threads that compute metrics.
        force: replace the weights even by worse ones.

    Raises:
        ValueError: `training` mixes other sources than there are, or watches another figure.
    """

    recordings: Sequence[Path]
    topics: Sequence[str] | None
    out: Path
    start: str
    labeller: str
    recipe: str
    training: Any
    harvest: HarvestConfig
    labels: LabelConfig
    proof: ProofConfig
    general_threshold: float
    short_side: int = 256
    rounds: int = 1
    blend: tuple[float, ...] = (1.0, 0.95, 0.85, 0.7, 0.5)
    minutes: float | None = None
    general: Path | None = None
    general_limit: int = 400
    general_pairs: Path | None = None
    protocol: str = 'superpoint-240'
    levels: int = LEVELS
    jobs: int = 1
    force: bool = False

    def __post_init__(self) -> None:
        check_mix(self.training.mix, SOURCES)
        if self.training.loop.watch not in ('', *WATCHED):
            raise ValueError(f"loop.watch must be '' or one of {', '.join(WATCHED)}, got '{self.training.loop.watch}'")

    def settings(self) -> dict[str, Any]:
        """All that a run that goes on must have in common with the one that was begun, as text; paths are absolute."""
        free = {'jobs', 'force', 'out'}
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in free}
        own['recordings'] = [_absolute(path) for path in self.recordings]
        own |= {'general': _absolute(self.general), 'general_pairs': _absolute(self.general_pairs)}
        return {name: str(value) for name, value in own.items()}


def _absolute(path: Path | None) -> Path | None:
    return path and path.expanduser().resolve()
