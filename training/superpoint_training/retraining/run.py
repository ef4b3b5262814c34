"""A retraining from its recordings to its report."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from superpoint_ros.networks import KeypointNetwork, load_network, save_network
from superpoint_training.averaging import blend
from superpoint_training.distributed import World
from superpoint_training.evaluation.pair_run import PreparedPair
from superpoint_training.evaluation.recording_run import warped_pairs
from superpoint_training.evaluation.results import finite, header
from superpoint_training.evaluation.results import write as write_results
from superpoint_training.failures import TrainingError
from superpoint_training.files import require_writable, write_whole
from superpoint_training.frames import Frames, evenly
from superpoint_training.harvest import Harvest, harvest, open_feeds, survey_share
from superpoint_training.protocols import PROTOCOLS
from superpoint_training.retraining import proof
from superpoint_training.retraining.card import write_card
from superpoint_training.retraining.general import general_frames, general_pairs
from superpoint_training.retraining.report import write_report
from superpoint_training.retraining.request import Request
from superpoint_training.retraining.rounds import VALIDATION_FRAMES, start_network, train_round
from superpoint_training.retraining.workspace import Workspace

PUBLISHED = '.safetensors', '.md'
"""Weights and their card, by the ends of their names."""


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
        TrainingError: another process works in `work`, the weights could not be written, or a stage can't be done;
            what the stages before it made is kept.
        ValueError: recordings, general pictures or pairs can't be read, or the batch can't be dealt out evenly.
        WeightsError: the weights to begin with, or the labeller's, can't be read.
    """
    request.training.loop.check_processes(world.size)
    open_feeds(request.recordings, request.topics)
    network = start_network(request)
    labeller: nn.Module = load_network(request.labeller)
    general = general_frames(request.general, request.general_pairs, request.general_limit)
    protocol = PROTOCOLS[request.protocol]
    pairs = general_pairs(request.general, request.general_pairs, protocol, request.jobs) if world.first else []
    for suffix in PUBLISHED if world.first else ():
        require_writable(request.out.with_suffix(suffix))
    with work.locked() if world.first else nullcontext():
        if world.first:
            work.begin(request.settings(), resume)
        world.wait()
        frames = _harvest(request, work, world)
        if world.first:
            work.keep_to_frames(frames.folder.name)
        if frames.held_out is None or len(frames.held_out) < 2:
            raise TrainingError(
                f'{len(frames.held_out or ())} frames are held out, and 2 are needed, one to watch the training and '
                'another to judge it by: raise held_out_share and held_out_frames, or record more'
            )
        watching, judging = split_held_out(frames.held_out_blocks())
        watched = [frames.held_out[index] for index in evenly(watching, VALIDATION_FRAMES)]
        rounds: list[dict[str, Any]] = []
        for number in range(1, request.rounds + 1):
            outcome, about = train_round(
                request, work, world, number, network, labeller, frames.train, watched, general
            )
            if outcome is None or not outcome.finished:
                return Interrupted(f'round {number} of {request.rounds}')
            rounds.append(about)
            labeller, network = outcome.network, copy.deepcopy(outcome.network).requires_grad_(True)
        if not world.first:
            return world.from_first(None)  # type: ignore[return-value]
        material = _material(request, frames, frames.held_out, judging, pairs)
        tried = _try_blends(request, work, network, material, frames, rounds, world)
        counts = {'watching': len(watched), 'judging': len(judging), 'general_frames': len(general)}
        return world.from_first(_conclude(request, work, frames, rounds, tried, header(command, []) | counts))


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


def _conclude(
    request: Request, work: Workspace, frames: Harvest, rounds: Sequence[dict[str, Any]], tried: Sequence[_Blend],
    about: dict[str, Any],
) -> proof.Verdict:  # fmt: skip
    """Put the weights in their place if they are better, or forced, and write what is to be known of them."""
    chosen = tried[-1] if tried[-1].verdict.is_better else tried[0]
    if chosen is not tried[-1]:
        _save(request, work, chosen.network, frames, rounds[-1])
    results = finite(about | {
        'protocol': request.protocol,
        'levels': request.levels,
        'harvest': frames.report,
        'weights': {'start': request.start, 'before': request.labeller, 'out': str(request.out)},
        'settings': request.settings() | {'seed': request.training.seed},
        'rounds': rounds,
        'figures': chosen.figures,
        'verdict': dataclasses.asdict(chosen.verdict),
        'replaced': chosen.verdict.is_better or request.force,
        'blend': chosen.share,
        'blends_tried': {f'{each.share:g}': each.verdict.reasons for each in tried},
    })  # fmt: skip
    write_card(results, work.rejected.with_suffix('.md'))
    if results['replaced']:
        _publish(work, request.out)
    write_report(results, chosen.drawn, work.report)
    write_results(results, work.results)
    return chosen.verdict


def _harvest(request: Request, work: Workspace, world: World) -> Harvest:
    what = request.recordings, request.topics, request.harvest, work.frames
    if world.size > 1:
        survey_share(*what, world.rank, world.size, world.first)
        world.wait()
    chosen = harvest(*what) if world.first else None
    world.wait()
    return chosen or harvest(*what, show_progress=False)


def split_held_out(blocks: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Held-out frames that watch the training, about the first third, and those that judge it.

    Args:
        blocks: the frames of each stretch of time, two at least in all; none is cut in two but where there is just one.
    """
    frames = [index for block in blocks for index in block]
    borders = np.cumsum([len(block) for block in blocks])[:-1]
    third = max(1, len(frames) // 3)
    first = int(borders[np.abs(borders - third).argmin()]) if len(borders) else third
    return frames[:first], frames[first:]


def _material(
    request: Request, frames: Harvest, held_out: Frames, judging: Sequence[int], general: Sequence[PreparedPair]
) -> proof.Material:
    protocol = PROTOCOLS[request.protocol]
    real, judges = {}, set(judging)
    for gap in request.proof.gaps:
        pairs = [pair for pair in frames.held_out_pairs(gap) if judges.issuperset(pair)]
        if pairs:
            real[gap] = [(held_out[first], held_out[second]) for first, second in evenly(pairs, proof.REAL_PAIRS)]
    judged = warped_pairs([held_out[index] for index in judging], protocol)
    return proof.Material(judged, real, general, protocol, request.levels)


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
    """Put weights and card in their place, each whole or not at all.

    Raises:
        TrainingError: one can't be written; both stay where they were, too.
    """
    try:
        for suffix in PUBLISHED:
            write_whole(out.with_suffix(suffix), work.rejected.with_suffix(suffix).read_bytes())
    except TrainingError as error:
        raise TrainingError(f"{error}. The new weights are '{work.rejected}'") from error
    for suffix in PUBLISHED:
        work.rejected.with_suffix(suffix).unlink()
