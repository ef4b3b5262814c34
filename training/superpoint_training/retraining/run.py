"""A retraining from its recordings to its report."""

from __future__ import annotations

import copy
import dataclasses
import shutil
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
from superpoint_training.evaluation.recording_run import warped_pairs
from superpoint_training.evaluation.results import finite, header
from superpoint_training.evaluation.results import write as write_results
from superpoint_training.examples import LabelledFrames, PairSource, PlainFrames
from superpoint_training.failures import TrainingError
from superpoint_training.frames import Frames, Shrunk
from superpoint_training.harvest import Harvest, HarvestConfig, harvest, plan_harvest, survey_share
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
from superpoint_training.train import describe_run, load_start, train_recipe

VALIDATION_FRAMES = 16


@dataclass(frozen=True)
class Request:
    """What is to be retrained, on what, and how.

    Attributes:
        recordings: see `harvest`.
        topics: see `harvest`.
        out: weights to write.
        start: weights to begin with, by name or path; 'none' begins with fresh ones.
        labeller: weights that label the frames in the first round; those of `start`, unless that is 'none'.
        recipe: of `RECIPES`.
        training: of the recipe's kind.
        harvest, labels, proof: of the other stages.
        short_side: of the pictures that are labelled and trained on; larger ones are reduced.
        rounds: of labelling and training; each labels by what the one before trained.
        blend: how far to go from the old weights to the trained ones, 0 to 1: tried in this order until weights are
            better, since nearer ones forget less. Fresh ones are taken as they are.
        minutes: that the training of one round may take; None trains all steps of the configuration.
        general: folder or tar of pictures to mix in; None takes those that the package ships.
        general_limit: use so many of them at most.
        general_threshold: as `labels.threshold`, for them.
        general_pairs: folder of homography pairs to judge forgetting by; None takes views of the shipped pictures.
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
    general_threshold: float = 0.03
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
    draws: dict[str, proof.Draw]
    verdict: proof.Verdict


def retrain(request: Request, work: Workspace, world: World, command: Sequence[str]) -> proof.Verdict | Interrupted:
    """Harvest, label, train, prove, and replace the weights if they are better.

    Every stage goes on where it was stopped. All processes take part in labelling and training, rank 0 in the rest.

    Raises:
        TrainingError: a stage can't be done; what the stages before it made is kept.
        WeightsError: the weights to begin with, or the labeller's, can't be read.
    """
    frames = _harvest(request, work, world)
    if frames.held_out is None:
        raise TrainingError('no frames are held out, so nothing can be proved: raise held_out_share')
    general = general_frames(request.general, request.general_limit)
    # Before the training, which would be in vain with pairs that can't be read.
    material = _material(request, frames, frames.held_out) if world.first else None
    network = _start_network(request)
    labeller: nn.Module = load_network(request.labeller)
    rounds: list[dict[str, Any]] = []
    for number in range(1, request.rounds + 1):
        outcome, about = _round(request, work, world, number, network, labeller, frames.train, frames.held_out, general)
        if outcome is None or not outcome.finished:
            return Interrupted(f'round {number} of {request.rounds}')
        rounds.append(about | _summary(outcome) | describe_run(outcome, request.training, world))
        labeller, network = outcome.network, copy.deepcopy(outcome.network).requires_grad_(True)
    if material is None:
        return world.from_first(None)  # type: ignore[return-value]
    reference: nn.Module = load_network(request.labeller if request.start == 'none' else request.start, fold=False)
    tried = _try_blends(request, work, reference, network, material, frames, rounds[-1], world)
    chosen = tried[-1] if tried[-1].verdict.is_better else tried[0]
    if chosen is not tried[-1]:
        _save(request, work, chosen.network, frames, rounds[-1])
    verdict = chosen.verdict
    results = header(command, []) | {
        'protocol': request.protocol,
        'levels': request.levels,
        'harvest': frames.report,
        'general_frames': len(general),
        'weights': {'start': request.start, 'out': str(request.out)},
        'settings': request.settings() | {'seed': request.training.seed},
        'rounds': rounds,
        'figures': chosen.figures,
        'verdict': dataclasses.asdict(verdict),
        'blend': chosen.share,
        'blends_tried': {f'{blend.share:g}': blend.verdict.reasons for blend in tried},
    }
    results = finite(results)
    write_card(results, work.rejected.with_suffix('.md'))
    write_report(results, chosen.draws, work.report)
    write_results(results, work.results)
    if verdict.is_better or request.force:
        _publish(work, request.out)
    return world.from_first(verdict)


def _try_blends(
    request: Request, work: Workspace, old: nn.Module, new: nn.Module, material: proof.Material, frames: Harvest,
    last: dict[str, Any], world: World,
) -> list[_Blend]:  # fmt: skip
    """From the new weights back towards the old ones, until some are better than the old ones."""
    tried: list[_Blend] = []
    shares = request.blend if request.start != 'none' else (1.0,)
    if not last['step']:
        print('no validated weights were above those begun with, which are all that is left to prove')
        shares = (1.0,)
    for share in shares:
        if tried:
            print(f'{tried[-1].share:.0%} of the way to the trained weights is not better: '
                  f'{"; ".join(tried[-1].verdict.reasons)}. Now {share:.0%}')  # fmt: skip
        _save(request, work, blend(old, new, share) if share < 1 else new, frames, last)
        # Read again, so that what is judged is what would be used: in half precision.
        judged = load_network(work.rejected, fold=False)
        figures, draws = proof.prove(old, judged, material, str(world.device), request.jobs)
        tried.append(_Blend(share, judged, figures, draws, proof.judge(figures, request.proof)))
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


def _start_network(request: Request) -> nn.Module:
    if request.start == 'none':
        torch.manual_seed(request.training.seed)
        return RECIPES[request.recipe].build_network(request.training)
    return load_start(request.start, RECIPES[request.recipe]).requires_grad_(True)


def _material(request: Request, frames: Harvest, held_out: Frames) -> proof.Material:
    """The held-out frames but the first third, which watch the training."""
    protocol = PROTOCOLS[request.protocol]
    first = len(held_out) // 3
    real = {}
    for gap in request.proof.gaps:
        pairs = [pair for pair in frames.held_out_pairs(gap) if min(pair) >= first]
        if pairs:
            chosen = np.unique(np.linspace(0, len(pairs) - 1, proof.REAL_PAIRS).round().astype(int))
            real[gap] = [(held_out[pairs[i][0]], held_out[pairs[i][1]]) for i in chosen]
    judged = [held_out[index] for index in range(first, len(held_out))]
    general = general_pairs(request.general_pairs, protocol, request.jobs)
    return proof.Material(warped_pairs(judged, protocol), real, general, protocol, request.levels)


def _round(
    request: Request, work: Workspace, world: World, number: int, network: nn.Module, labeller: nn.Module,
    train: Frames, held_out: Frames, general: Frames,
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
    watched = [held_out[index] for index in range(max(1, len(held_out) // 3))]
    chosen = np.unique(np.linspace(0, len(watched) - 1, VALIDATION_FRAMES).round().astype(int))
    watched = [watched[index] for index in chosen]
    outcome = train_recipe(
        recipe,
        network,
        sources,
        replace(config, loop=loop),
        work.checkpoint(number),
        world=world,
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
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ('.safetensors', '.md'):
        source, target = work.rejected.with_suffix(suffix), out.with_suffix(suffix)
        partial = target.with_name(target.name + '.partial')
        shutil.copyfile(source, partial)
        partial.replace(target)
        source.unlink()


def plan(request: Request, work: Workspace, world: World) -> list[tuple[str, str]]:
    """What the run would do, how long it would take and how much disk, by stage; a few images are read, nothing kept.

    Raises:
        TrainingError: as `retrain`, as far as can be told.
    """
    found = plan_harvest(request.recordings, request.topics, request.harvest, work.frames)
    train = min(found.images, request.harvest.train_frames)
    general = general_frames(request.general, request.general_limit)
    recipe = RECIPES[request.recipe]
    few = Shrunk(Frames(general.root, 2), request.short_side)
    source: PairSource = PlainFrames(few)
    labelled, described = 0.0, f'none, {request.recipe} trains without'
    if recipe.needs_labels:
        labeller = load_network(request.labeller)
        labelled = (train + len(general)) * schedule.seconds_a_label(labeller, few, request.labels, world)
        labels, _ = label_frames(labeller, few, replace(request.labels, views=2), work.labels('plan', 0), world=world)
        work.labels('plan', 0).unlink()
        source = LabelledFrames(few, labels)
        described = (
            f'up to {train + len(general)} frames a round, {request.labels.views} views each, {_duration(labelled)}'
        )
    sources = dict.fromkeys(('robot', 'general'), source)
    step = schedule.seconds_a_step(recipe, _start_network(request), sources, request.training, world)
    steps = schedule.fit_steps(request.training.loop.steps, step, request.minutes)
    total = found.seconds + request.rounds * (labelled + steps * step)
    harvested = 'are in the cache' if found.is_cached else f'to read and measure, {_duration(found.seconds)}'
    disk = found.cache_bytes * (not found.is_cached) + 100_000_000
    return [
        ('frames', f'{found.images} images {harvested}; up to {train} to train on'),
        ('labels', described),
        ('training', f'{steps} steps of {request.training.loop.batch_size} a round, {_duration(steps * step)}'),
        ('rounds', str(request.rounds)),
        ('in all', f'{_duration(total)} on {world.device}, and some minutes for the proof'),
        ('disk', f"up to {disk / 1e6:.0f} MB in '{work.folder}'"),
        ('weights', f"'{request.out}', from {request.start}, if they are better{' or worse' * request.force}"),
    ]


def _duration(seconds: float) -> str:
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'
