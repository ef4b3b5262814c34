"""A retraining from its recordings to its report."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from superpoint_ros.networks import KeypointNetwork, load_network, save_network
from superpoint_training.adaptation import LabelConfig
from superpoint_training.averaging import blend
from superpoint_training.distributed import World
from superpoint_training.evaluation.pair_run import PreparedPair
from superpoint_training.evaluation.recording_run import warped_pairs
from superpoint_training.evaluation.results import finite, header
from superpoint_training.evaluation.results import write as write_results
from superpoint_training.failures import TrainingError
from superpoint_training.files import write_whole
from superpoint_training.frames import Frames, Shrunk
from superpoint_training.harvest import Harvest, HarvestConfig, harvest, open_feeds, survey_share
from superpoint_training.labels import label_frames
from superpoint_training.loop import Outcome
from superpoint_training.peers import LEVELS
from superpoint_training.protocols import PROTOCOLS
from superpoint_training.recipes import RECIPES
from superpoint_training.retraining import proof, schedule
from superpoint_training.retraining.card import write_card
from superpoint_training.retraining.general import general_frames, general_pairs
from superpoint_training.retraining.report import write_report
from superpoint_training.retraining.workspace import Workspace
from superpoint_training.sources import LabelledFrames, PairSource, PlainFrames
from superpoint_training.train import describe_run, fingerprint, load_start, train_recipe

VALIDATION_FRAMES = 16


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
    proof: proof.ProofConfig
    short_side: int = 256
    rounds: int = 1
    blend: tuple[float, ...] = (1.0, 0.95, 0.85, 0.7, 0.5)
    minutes: float | None = None
    general: Path | None = None
    general_limit: int = 400
    general_threshold: float = 0.018
    general_pairs: Path | None = None
    protocol: str = 'superpoint-240'
    levels: int = LEVELS
    jobs: int = 1
    force: bool = False

    def settings(self) -> dict[str, Any]:
        """All that a run that goes on must have in common with the one that was begun."""
        free = {'jobs', 'force', 'out'}
        fields = (field.name for field in dataclasses.fields(self) if field.name not in free)
        return {name: str(getattr(self, name)) for name in fields}


@dataclass(frozen=True)
class Interrupted:
    """The run was stopped in time; the same call with --resume goes on.

    Attributes:
        stage: what it was doing.
    """

    stage: str


class _Blend(NamedTuple):
    """Weights so far from the old ones to the trained ones, and what became of them."""

    share: float
    network: KeypointNetwork
    figures: dict[str, Any]
    drawn: proof.Drawn
    verdict: proof.Verdict


def retrain(
    request: Request, work: Workspace, world: World, command: Sequence[str], resume: bool = False
) -> proof.Verdict | Interrupted:
    """Harvest, label, train, prove, and replace the weights if they are better.

    Every stage goes on where it was stopped. All processes take part in labelling and training, rank 0 in the rest.
    Whatever is asked for is opened first, so that a name mistyped leaves no run behind.

    Args:
        request: what is asked for.
        work: where everything but the weights lies.
        world: this process and those that share the work.
        command: the command line, for the record.
        resume: go on with the run in `work`, which must be of the same request.

    Raises:
        TrainingError: a stage can't be done; what the stages before it made is kept.
        ValueError: recordings, general pictures or pairs can't be read.
        WeightsError: the weights to begin with, or the labeller's, can't be read.
    """
    open_feeds(request.recordings, request.topics)
    network = start_network(request)
    labeller: nn.Module = load_network(request.labeller)
    general = general_frames(request.general, request.general_pairs, request.general_limit)
    protocol = PROTOCOLS[request.protocol]
    pairs = general_pairs(request.general, request.general_pairs, protocol, request.jobs) if world.first else []
    if world.first:
        work.begin(request.settings(), resume)
    world.wait()
    frames = _harvest(request, work, world)
    if world.first:
        work.keep_to_frames(frames.folder.name)
    if frames.held_out is None:
        raise TrainingError('no frames are held out, so nothing can be proved: raise held_out_share')
    watching, judging = split_held_out(frames.held_out_blocks())
    watched = [frames.held_out[index] for index in watching]
    rounds: list[dict[str, Any]] = []
    for number in range(1, request.rounds + 1):
        outcome, about = _round(request, work, world, number, network, labeller, frames.train, watched, general)
        if outcome is None or not outcome.finished:
            return Interrupted(f'round {number} of {request.rounds}')
        rounds.append(about | _summary(outcome) | describe_run(outcome, request.training, world))
        labeller, network = outcome.network, copy.deepcopy(outcome.network).requires_grad_(True)
    if not world.first:
        return world.from_first(None)  # type: ignore[return-value]
    material = _material(request, frames, frames.held_out, judging, pairs)
    tried = _try_blends(request, work, network, material, frames, rounds, world)
    chosen = tried[-1] if tried[-1].verdict.is_better else tried[0]
    if chosen is not tried[-1]:
        _save(request, work, chosen.network, frames, rounds[-1])
    verdict = chosen.verdict
    results = header(command, []) | {
        'protocol': request.protocol,
        'levels': request.levels,
        'harvest': frames.report,
        'watching': len(watching),
        'general_frames': len(general),
        'weights': {'start': request.start, 'before': request.labeller, 'out': str(request.out)},
        'settings': request.settings() | {'seed': request.training.seed},
        'rounds': rounds,
        'figures': chosen.figures,
        'verdict': dataclasses.asdict(verdict),
        'replaced': verdict.is_better or request.force,
        'blend': chosen.share,
        'blends_tried': {f'{blend.share:g}': blend.verdict.reasons for blend in tried},
    }
    results = finite(results)
    write_card(results, work.rejected.with_suffix('.md'))
    if results['replaced']:
        _publish(work, request.out)
    write_report(results, chosen.drawn, work.report)
    write_results(results, work.results)
    return world.from_first(verdict)


def _try_blends(
    request: Request, work: Workspace, new: nn.Module, material: proof.Material, frames: Harvest,
    rounds: Sequence[dict[str, Any]], world: World,
) -> list[_Blend]:  # fmt: skip
    """From the new weights back towards the old ones, until some are better than the old ones."""
    old = load_network(request.labeller, fold=False)
    before = proof.measure(old, proof.BEFORE, material, str(world.device), request.jobs)
    tried: list[_Blend] = []
    shares = request.blend if request.start != 'none' else (1.0,)
    if not any(each['step'] for each in rounds):
        print('no validated weights were above those begun with, which are all that is left to prove')
        shares = (1.0,)
    for share in shares:
        if tried:
            print(f'{tried[-1].share:.0%} of the way to the trained weights is not better: '
                  f'{"; ".join(tried[-1].verdict.reasons)}. Now {share:.0%}')  # fmt: skip
        _save(request, work, blend(old, new, share) if share < 1 else new, frames, rounds[-1])
        # Read again, so that what is judged is what would be used: in half precision.
        judged = load_network(work.rejected, fold=False)
        after = proof.measure(judged, proof.AFTER, material, str(world.device), request.jobs)
        figures = proof.compare(before, after)
        tried.append(_Blend(share, judged, figures, proof.draw(before, after), proof.judge(figures, request.proof)))
        if tried[-1].verdict.is_better:
            break
    return tried


def _harvest(request: Request, work: Workspace, world: World) -> Harvest:
    what = request.recordings, request.topics, request.harvest, work.frames
    if world.size > 1:
        survey_share(*what, world.rank, world.size, world.first)
        world.wait()
    chosen = harvest(*what) if world.first else None
    world.wait()
    return chosen or harvest(*what, show_progress=False)


def start_network(request: Request) -> nn.Module:
    if request.start == 'none':
        torch.manual_seed(request.training.seed)
        return RECIPES[request.recipe].build_network(request.training)
    return load_start(request.start, RECIPES[request.recipe]).requires_grad_(True)


def split_held_out(blocks: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Held-out frames that watch the training, about the first third, and those that judge it.

    Args:
        blocks: the frames of each stretch of time; none is cut in two but where there is just one.
    """
    frames = [index for block in blocks for index in block]
    borders = np.cumsum([len(block) for block in blocks])[:-1]
    third = max(1, len(frames) // 3)
    first = int(borders[np.abs(borders - third).argmin()]) if len(borders) else third
    return frames[:first], frames[first:] or frames


def _material(
    request: Request, frames: Harvest, held_out: Frames, judging: Sequence[int], general: Sequence[PreparedPair]
) -> proof.Material:
    protocol = PROTOCOLS[request.protocol]
    real, judges = {}, set(judging)
    for gap in request.proof.gaps:
        pairs = [pair for pair in frames.held_out_pairs(gap) if judges.issuperset(pair)]
        if pairs:
            chosen = np.unique(np.linspace(0, len(pairs) - 1, proof.REAL_PAIRS).round().astype(int))
            real[gap] = [(held_out[pairs[i][0]], held_out[pairs[i][1]]) for i in chosen]
    judged = warped_pairs([held_out[index] for index in judging], protocol)
    return proof.Material(judged, real, general, protocol, request.levels)


def _round(
    request: Request, work: Workspace, world: World, number: int, network: nn.Module, labeller: nn.Module,
    train: Frames, watched: Sequence[np.ndarray], general: Frames,
) -> tuple[Outcome | None, dict[str, Any]]:  # fmt: skip
    """Label the frames, if the recipe needs it, and train on them; None if it was stopped while labelling."""
    recipe, config = RECIPES[request.recipe], request.training
    sources: dict[str, PairSource] = {}
    density = None
    surer = replace(request.labels, threshold=request.general_threshold)
    for name, recorded, how in (('robot', train, request.labels), ('general', general, surer)):
        pictures = Shrunk(recorded, request.short_side)
        if not recipe.needs_labels:
            sources[name] = PlainFrames(pictures)
            continue
        labels, complete = label_frames(
            labeller, pictures, how, work.labels(name, number), world=world, seed=number,
            describe=f'label {name} frames',
        )  # fmt: skip
        if not complete:
            return None, {}
        sources[name] = LabelledFrames(pictures, labels)
        density = labels.density if name == 'robot' else density
    steps = _steps(request, work, world, number, network, sources)
    loop = replace(config.loop, steps=steps, warm_up=min(config.loop.warm_up, steps // 5))
    protocol = PROTOCOLS[request.protocol]
    chosen = np.unique(np.linspace(0, len(watched) - 1, VALIDATION_FRAMES).round().astype(int))
    watched = [watched[index] for index in chosen]
    outcome = train_recipe(
        recipe,
        network,
        sources,
        replace(config, loop=loop),
        work.checkpoint(number),
        world=world,
        start=fingerprint(request.start),
        validate=proof.validation(warped_pairs(watched, protocol), protocol, str(world.device), request.levels),
        logs=work.logs(number),
        describe=f'train, round {number}' if request.rounds > 1 else 'train',
    )
    return outcome, {'labels': density}


def _steps(
    request: Request, work: Workspace, world: World, number: int, network: nn.Module, sources: dict[str, PairSource]
) -> int:
    """How many steps this round has: decided once, by the speed of this machine, and remembered."""
    key = f'steps_of_round_{number}'
    steps = 0
    if world.first:
        steps = work.settings().get(key, 0)
        if not steps:
            seconds = 0.0
            if request.minutes is not None:
                recipe = RECIPES[request.recipe]
                seconds = schedule.seconds_a_step(recipe, network, sources, request.training, world)
            steps = schedule.fit_steps(request.training.loop.steps, seconds, request.minutes)
            work.remember(**{key: steps})
    return world.from_first(steps)


def _summary(outcome: Outcome) -> dict[str, Any]:
    kept = ('step', 'figures', 'steps', 'seconds', 'curves')
    return {name: getattr(outcome, name) for name in kept}


def _save(request: Request, work: Workspace, network: nn.Module, frames: Harvest, last: dict[str, Any]) -> None:
    """Write the weights where they stay unless they turn out better."""
    hashes = ', '.join(recording['sha256'][:16] for recording in frames.report['recordings'])
    metadata = {name: last[name] for name in ('schedule', 'hardware', 'seed', 'losses')} | {
        'recipe': request.recipe,
        'data': f'{len(frames.train)} frames of recordings {hashes}',
        'start': request.start,
    }
    save_network(network, work.rejected, metadata)  # type: ignore[arg-type]


def _publish(work: Workspace, out: Path) -> None:
    """Put weights and card in their place, each whole or not at all."""
    for suffix in ('.safetensors', '.md'):
        source = work.rejected.with_suffix(suffix)
        write_whole(out.with_suffix(suffix), source.read_bytes())
        source.unlink()
