"""The training loop: steps, schedule, averaged weights, validation, checkpoints. It knows neither data nor losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from superpoint_training.accumulation import Accumulator, Batch, ComputeLosses
from superpoint_training.averaging import Average
from superpoint_training.checkpoints import CheckpointFile
from superpoint_training.distributed import World
from superpoint_training.failures import TrainingError, what_failed
from superpoint_training.interruptible import Interruptible
from superpoint_training.journal import Curves, Journal

MOST_BAD_STEPS = 100
"""Steps in a row without a finite gradient that end a run."""

EXAMPLES_AT_ONCE = 8
"""On a CPU."""

Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class LoopConfig:
    """Length and pace of a training.

    Attributes:
        steps: of the whole schedule.
        batch_size: examples a step, over all processes.
        micro_batch: examples that go through the network at once, and over which BatchNorm takes its statistics;
            smaller ones need less memory, larger ones keep a GPU busier; see `examples_at_once` for what there are
            unless this is given.
        learning_rate: at its peak, for AdamW.
        warm_up: steps of linear rise; then a cosine to zero.
        weight_decay: of AdamW.
        gradient_norm: longest gradient; longer ones are scaled down.
        average: decay a step of the running average of the weights, which is what a training gives.
        freeze_norm: normalise by BatchNorm's running statistics and leave them as they are.
        validate_every: steps between two validations; 0 for none.
        watch: the validated figure, higher being better, by which the best weights are kept; '' keeps the last.
        patience: validations in a row without a new best that end the run; 0 for never.
        workers: processes that make examples; 0 makes them in the training process; see `examples.workers_beside` for
            what there are unless this is given.
        checkpoint_seconds: between two checkpoints.
        record_every: steps between two points of the losses' curves.
    """

    steps: int = 20000
    batch_size: int = 16
    micro_batch: int | None = None
    learning_rate: float = 1e-3
    warm_up: int = 200
    weight_decay: float = 1e-4
    gradient_norm: float = 5.0
    average: float = 0.998
    freeze_norm: bool = False
    validate_every: int = 0
    watch: str = ''
    patience: int = 0
    workers: int | None = None
    checkpoint_seconds: float = 30
    record_every: int = 20

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.record_every) < 1 or (self.micro_batch or 1) < 1:
            raise ValueError('steps, batch_size, micro_batch and record_every must be at least 1')
        rates = self.learning_rate, self.weight_decay
        if min(*rates, self.warm_up, self.validate_every, self.patience, self.workers or 0) < 0:
            raise ValueError(
                'learning_rate, weight_decay, warm_up, validate_every, patience and workers must not be negative'
            )
        if self.gradient_norm <= 0:
            raise ValueError(f'gradient_norm must be above 0, got {self.gradient_norm}')
        if not 0 <= self.average < 1:
            raise ValueError(f'average must be at least 0 and below 1, got {self.average}')
        if self.patience and not (self.watch and self.validate_every):
            raise ValueError('patience needs watch, the figure to wait for, and validate_every')

    def examples_at_once(self, world: World) -> int:
        """How many go through the network: as many as are given or, if none are, what keeps a device busy.

        Those are 8 on a CPU. On a GPU, where as many take as long, they are all that a process has of a batch.
        """
        if self.micro_batch is not None:
            return self.micro_batch
        return EXAMPLES_AT_ONCE if world.device.type == 'cpu' else self.batch_size // world.size

    def check_processes(self, count: int) -> None:
        """Refuse a number of processes over which the batch cannot be dealt out evenly.

        Raises:
            ValueError: it does not divide the batch.
        """
        if self.batch_size % count:
            raise ValueError(
                f'batch_size {self.batch_size} is not a multiple of the {count} processes: take another number of '
                'them, or another loop.batch_size'
            )


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        network: the averaged weights, in eval mode: those with the best watched figure, or the latest.
        step: that they are of.
        figures: that they reached in validation; empty when they were not validated.
        steps: done in all.
        seconds: trained in all.
        waited: of the seconds of this call, the share that went into waiting for examples.
        losses: their running means.
        curves: points (step, value) by name: `loss/...`, `learning_rate`, `validation/...`.
        finished: whether the schedule is over, or patience; else the run waits to be called again.
    """

    network: nn.Module
    step: int
    figures: dict[str, float]
    steps: int
    seconds: float
    waited: float
    losses: dict[str, float]
    curves: Curves
    finished: bool


def learning_rate(step: int, config: LoopConfig) -> float:
    """The rate at a step: linear rise over `warm_up`, then half a cosine down to 0 at `steps`."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    progress = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Waiting:
    """How much of the time is spent on waiting for the next of something."""

    def __init__(self) -> None:
        self._waited, self._used = 0.0, 0.0

    @property
    def share(self) -> float:
        """Of the time so far, but for the first, which is waited for however quick those are that make them."""
        return self._waited / max(self._waited + self._used, 1e-9)

    def of(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same, timed."""
        batch = next(batches, None)
        while batch is not None:
            began = time.monotonic()
            yield batch
            used = time.monotonic()
            batch = next(batches, None)
            self._used += used - began
            self._waited += time.monotonic() - used


class _Run:
    """A training in progress: all that a checkpoint holds, and one step of it."""

    def __init__(self, network: nn.Module, config: LoopConfig, world: World, settings: str) -> None:
        self.network = network.to(world.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        for module in network.modules() if config.freeze_norm else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        self.config, self.world, self.settings = config, world, settings
        self.average = Average(network, config.average)
        self.accumulator = Accumulator(network, config.examples_at_once(world), world)
        self.optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        self.step, self.seconds, self.bad_in_a_row = 0, 0.0, 0
        self.waiting = Waiting()
        self.means: dict[str, float] = {}
        self.curves: Curves = {}
        self.best: dict[str, Any] = {}
        self.since_best, self.validated = 0, -1

    @property
    def finished(self) -> bool:
        out_of_patience = self.config.patience and self.since_best >= self.config.patience
        return bool(out_of_patience) or self.step >= self.config.steps

    @property
    def validation_is_due(self) -> bool:
        every = self.config.validate_every
        return every > 0 and self.validated < self.step and (self.step % every == 0 or self.finished)

    def state(self) -> dict[str, Any]:
        return {
            'settings': self.settings, 'network': self.network.state_dict(),
            'average': self.average.network.state_dict(), 'optimizer': self.optimizer.state_dict(),
            'micro_batch': self.accumulator.micro_batch, 'step': self.step, 'seconds': self.seconds,
            'bad_in_a_row': self.bad_in_a_row, 'means': self.means, 'curves': self.curves, 'best': self.best,
            'since_best': self.since_best, 'validated': self.validated,
        }  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved['network'])
        self.average.network.load_state_dict(saved['average'])
        self.optimizer.load_state_dict(saved['optimizer'])
        self.accumulator.micro_batch = min(saved['micro_batch'], self.accumulator.micro_batch)
        for name in ('step', 'seconds', 'bad_in_a_row', 'means', 'curves', 'best', 'since_best', 'validated'):
            setattr(self, name, saved[name])

    def take_step(self, batch: Batch, compute_losses: ComputeLosses, stop: bool) -> bool:
        """Train on this process's part of a batch; true when any process wants to stop."""
        for group in self.optimizer.param_groups:
            group.update(lr=learning_rate(self.step, self.config), weight_decay=self.config.weight_decay)
        own = self.config.batch_size // self.world.size
        seed = self.step * self.config.batch_size + self.world.rank * own
        losses = self.accumulator.run(batch, compute_losses, seed)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        votes = torch.tensor([float(stop)], device=self.world.device)
        self.world.sum([*gradients, *self.accumulator.statistics, *losses.values(), votes])
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_norm)
        self._update(norm, losses)
        return bool(votes > 0)

    def _update(self, norm: Tensor, losses: dict[str, Tensor]) -> None:
        self.step += 1
        length, *values = torch.stack([norm, *losses.values()]).tolist()  # a GPU is waited for once a step
        if not (math.isfinite(length) and all(map(math.isfinite, values))):
            self.accumulator.undo_statistics()
            self.bad_in_a_row += 1
            if self.bad_in_a_row == MOST_BAD_STEPS:
                raise FloatingPointError(
                    f'the training diverged: the loss or its gradient was not finite {MOST_BAD_STEPS} steps in a row, '
                    f'up to step {self.step}: lower loop.learning_rate'
                )
            return
        self.bad_in_a_row = 0
        self.optimizer.step()
        self.average.update(self.step)
        for name, value in zip(losses, values, strict=True):
            self.means[name] = self.means.get(name, value) * 0.99 + value * 0.01

    def validate(self, validate: Validate) -> dict[str, float]:
        """Figures of the averaged weights, which are kept if they are the best so far."""
        watch = self.config.watch
        figures = dict(self.world.from_first(validate(self.average.network) if self.world.first else {}))
        if watch and watch not in figures:
            raise ValueError(f"watch names '{watch}', but validation gives {', '.join(figures) or 'nothing'}")
        if watch and self.best and not figures[watch] > self.best['figures'][watch]:
            self.since_best += 1
        else:
            network = {name: tensor.clone() for name, tensor in self.average.network.state_dict().items()}
            self.best = {'step': self.step, 'figures': figures, 'network': network}
            self.since_best = 0
        self.validated = self.step
        return figures

    def outcome(self) -> Outcome:
        network, step, figures = self.average.network, self.step, {}
        if self.best and (self.config.watch or self.best['step'] == step):
            network.load_state_dict(self.best['network'])
            step, figures = self.best['step'], self.best['figures']
        return Outcome(
            network, step, figures, self.step, self.seconds, self.waiting.share, self.means, self.curves, self.finished
        )


def train(
    network: nn.Module,
    make_batches: Callable[[int, int], Iterator[Batch]],
    compute_losses: ComputeLosses,
    config: LoopConfig,
    checkpoint: Path,
    *,
    world: World,
    settings: str = '',
    validate: Validate | None = None,
    minutes: float | None = None,
    logs: Path | None = None,
    describe: str = 'training',
) -> Outcome:
    """Train until the schedule ends, the minutes are over or a signal comes; go on from the checkpoint if it exists.

    A run that goes on ends with the weights of one that was never stopped, bitwise on a CPU with the same number of
    threads. Forward passes run in bfloat16 autocast. A step whose loss or gradient is not finite is left out, and
    `MOST_BAD_STEPS` in a row end the run. When memory does not suffice the micro-batch is halved: the batch stays,
    and so does its gradient, but for BatchNorm, whose statistics are then over fewer examples (see `Accumulator`).
    With `freeze_norm` nothing changes but rounding.

    Args:
        network: trained in place; moved to the world's device. The result is the outcome's network, not this one.
        make_batches: this process's parts of the batches from step to step, a function of the step number alone so
            that runs resume; see `examples.batches`.
        compute_losses: named losses of some examples, each a mean over them, the one to minimise under `total`.
        config: the schedule; a run may go on under another one.
        checkpoint: file that holds all that is needed to go on; rank 0 reads and writes it.
        world: this process and those that train with it.
        settings: whatever else must be the same for a run to go on.
        validate: figures of a network in eval mode; called by rank 0 before the first step, every
            `validate_every` steps and after the last.
        minutes: stop after so many, leaving a checkpoint.
        logs: folder for TensorBoard's files.
        describe: title of the progress bar.

    Raises:
        FloatingPointError: the losses stopped being finite, or the weights are not finite in half precision, in which
            they are stored.
        TrainingError: memory, disk, GPU, a picture or another process failed; the last checkpoint is intact.
        ValueError: the checkpoint is from a run with other settings, or the batch cannot be dealt out evenly.
    """
    config.check_processes(world.size)
    run = _Run(network, config, world, settings)
    file = CheckpointFile(checkpoint, config.checkpoint_seconds, run.state, world)
    run.restore(file.open(settings))
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    with (
        Interruptible() as interrupted,
        Journal(run.curves, config.steps, run.step, describe, logs, world.first) as journal,
    ):
        try:
            _go_on(
                run, file, journal, make_batches, compute_losses, validate,
                wants_to_stop=lambda: interrupted() or time.monotonic() > deadline,
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError, EOFError, MemoryError) as error:
            what = what_failed(error)
            if not what:
                raise
            # The trace and PyTorch's frames are a cycle that would keep the processes that make examples, whose end
            # ours waits for.
            error.__traceback__ = None
            raise TrainingError(f"{what}; '{checkpoint}' of step {file.step} is whole, run again to go on") from error
    file.save()
    outcome = run.outcome()
    state = outcome.network.state_dict().values()
    if not all(bool(tensor.half().isfinite().all()) for tensor in state if tensor.is_floating_point()):
        raise FloatingPointError(
            f'the training diverged: after step {outcome.step} its weights are no numbers that can be stored: lower '
            f"loop.learning_rate, and remove '{checkpoint}' to begin anew"
        )
    return outcome


def _go_on(
    run: _Run, file: CheckpointFile, journal: Journal, make_batches: Callable[[int, int], Iterator[Batch]],
    compute_losses: ComputeLosses, validate: Validate | None, wants_to_stop: Callable[[], bool],
) -> None:  # fmt: skip
    """Steps until the schedule, or the patience, is over, or a process wants to stop."""
    config, lap = run.config, time.monotonic()
    if validate and run.validation_is_due:  # of fresh weights, or because a run was stopped while it validated
        journal.add('validation/', run.step, run.validate(validate))
    for batch in run.waiting.of(make_batches(run.step, config.steps)) if not run.finished else ():
        stopped = run.take_step(batch, compute_losses, wants_to_stop())
        journal.advance(run.means)
        if run.step % config.record_every == 0:
            journal.add('loss/', run.step, run.means)
            journal.add('', run.step, {'learning_rate': learning_rate(run.step - 1, config)})
        if validate and run.validation_is_due:
            file.try_to_save()  # validation may take its time
            journal.add('validation/', run.step, run.validate(validate))
        now = time.monotonic()
        run.seconds, lap = run.seconds + now - lap, now
        file.save_if_due()
        if stopped or run.finished:
            break
