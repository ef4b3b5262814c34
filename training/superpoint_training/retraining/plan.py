"""What a retraining would do, and how long it would take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from superpoint_ros.networks import load_network
from superpoint_training.adaptation import Adaptation, find_labels
from superpoint_training.distributed import World
from superpoint_training.evaluation.pairs import find_pairs
from superpoint_training.frames import Shrunk
from superpoint_training.harvest import plan_harvest
from superpoint_training.labels import Labels
from superpoint_training.recipes import RECIPES
from superpoint_training.retraining import schedule
from superpoint_training.retraining.general import general_frames
from superpoint_training.retraining.request import SOURCES, Request
from superpoint_training.retraining.rounds import start_network
from superpoint_training.retraining.workspace import Workspace
from superpoint_training.sources import LabelledFrames, PairSource, PlainFrames, usable


def plan(request: Request, work: Workspace, world: World) -> list[tuple[str, str]]:
    """What the run would do, how long it would take and how much disk, by stage.

    A few images are read; of what is made only the recordings' hashes are kept.

    Raises:
        TrainingError, ValueError: as `retrain`, as far as can be told.
    """
    request.training.loop.check_processes(world.size)
    if request.general_pairs is not None:
        find_pairs(request.general_pairs)
    found = plan_harvest(request.recordings, request.topics, request.harvest, work.frames)
    train = min(found.images, request.harvest.train_frames)
    general = general_frames(request.general, request.general_pairs, request.general_limit)
    recipe = RECIPES[request.recipe]
    pictures = Shrunk(general, request.short_side)
    source: PairSource = PlainFrames(pictures)
    labelled, described = 0.0, f'none, {request.recipe} trains without'
    if recipe.needs_labels:
        index, picture = next(usable(pictures))
        labeller = load_network(request.labeller)
        labelled = (train + len(general)) * schedule.seconds_a_label(labeller, picture, request.labels, world)
        briefly = Adaptation(labeller, replace(request.labels, views=2), world.device)
        keypoints = find_labels(briefly.scores(picture, np.random.default_rng(0)), request.labels)
        source = LabelledFrames(pictures, Labels({pictures.names[index]: keypoints}, {}))
        described = (
            f'up to {train + len(general)} frames a round, {request.labels.views} views each, {_duration(labelled)}'
        )
    sources = dict.fromkeys(SOURCES, source)
    step = schedule.seconds_a_step(recipe, start_network(request), sources, request.training, world)
    steps = schedule.fit_steps(request.training.loop.steps, step, request.minutes)
    total = found.seconds + request.rounds * (labelled + steps * step)
    harvested = 'are in the cache' if found.is_cached else f'to read and measure, {_duration(found.seconds)}'
    disk = found.cache_bytes * (not found.is_cached) + 100_000_000
    return [
        ('topics', ', '.join(found.topics)),
        ('frames', f'{found.images} images {harvested}; up to {train} to train on'),
        *([('problem', found.problem)] if found.problem else []),
        ('labels', described),
        ('training', f'{steps} steps of {request.training.loop.batch_size} a round, {_duration(steps * step)}'),
        ('rounds', str(request.rounds)),
        ('in all', f'{_duration(total)} on {world.device}, and some minutes for the proof'),
        ('disk', f"up to {disk / 1e6:.0f} MB in '{work.folder}'"),
        ('weights', f"'{request.out}', from {request.start}, if they are better{' or worse' * request.force}"),
    ]


def _duration(seconds: float) -> str:
    return f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'
