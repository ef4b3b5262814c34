"""The training loop: steps, schedule, checkpoints, progress. It knows neither data nor losses."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]

MOST_BAD_STEPS = 100
"""Steps in a row without a finite loss that end a run."""


@dataclass(frozen=True)
class LoopConfig:
    """Length and pace of a training.

    Attributes:
        steps: of the whole schedule.
        batch_size: examples a step.
        learning_rate: at its peak, for AdamW.
        warm_up: steps of linear rise; then a cosine to zero.
        weight_decay: of AdamW.
        gradient_norm: longest gradient; longer ones are scaled down.
        workers: processes that make examples; 0 makes them in the training process.
        checkpoint_seconds: between two checkpoints.
    """

    steps: int = 20000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warm_up: int = 200
    weight_decay: float = 1e-4
    gradient_norm: float = 5.0
    workers: int = 1
    checkpoint_seconds: float = 60

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError('steps and batch_size must be at least 1')


@dataclass(frozen=True)
class Outcome:
    """How far a training got: steps done in all, seconds trained in all, and the losses' running means."""

    steps: int
    seconds: float
    losses: dict[str, float]
    finished: bool


def learning_rate(step: int, config: LoopConfig) -> float:
    """The rate at a step: linear rise over `warm_up`, then half a cosine down to 0 at `steps`."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    progress = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class _Run:
    """A training in progress: all that a checkpoint holds, and one step of it."""

    def __init__(self, network: nn.Module, config: LoopConfig, device: torch.device, settings: str) -> None:
        self.network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.config, self.device, self.settings = config, device, settings
        self.optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        self.step, self.seconds, self.means = 0, 0.0, dict[str, float]()
        self._bad_in_a_row = 0

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if saved['settings'] != self.settings:
            raise ValueError(f"'{path}' is from a run with other settings: remove it to begin anew, or restore them")
        self.network.load_state_dict(saved['network'])
        self.optimizer.load_state_dict(saved['optimizer'])
        self.step, self.seconds, self.means = saved['step'], saved['seconds'], saved['losses']

    def save(self, path: Path) -> None:
        state = {
            'network': self.network.state_dict(), 'optimizer': self.optimizer.state_dict(), 'step': self.step,
            'seconds': self.seconds, 'losses': self.means, 'settings': self.settings,
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + '.partial')
        torch.save(state, partial)
        partial.replace(path)

    def take_step(self, batch: Batch, compute_losses: Callable[[nn.Module, Batch], Losses]) -> None:
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(self.step, self.config)
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16):
            losses = compute_losses(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if not bool(torch.isfinite(losses['total'])):
            self._bad_in_a_row += 1
            if self._bad_in_a_row == MOST_BAD_STEPS:
                raise FloatingPointError(
                    f'the loss was not finite {MOST_BAD_STEPS} steps in a row, up to step {self.step}'
                )
            return
        self._bad_in_a_row = 0
        losses['total'].backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_norm)
        self.optimizer.step()
        for name, loss in losses.items():
            value = float(loss.detach())
            self.means[name] = self.means.get(name, value) * 0.99 + value * 0.01


def train(
    network: nn.Module,
    make_batches: Callable[[int, int], Iterator[Batch]],
    compute_losses: Callable[[nn.Module, Batch], Losses],
    config: LoopConfig,
    checkpoint: Path,
    *,
    device: torch.device,
    settings: str = '',
    minutes: float | None = None,
    describe: str = 'training',
) -> Outcome:
    """Train until the schedule ends, the minutes are over or a signal comes; go on from the checkpoint if it exists.

    Forward passes run in bfloat16 autocast. A step whose loss is not finite is left out, and `MOST_BAD_STEPS` in a
    row end the run.

    Args:
        network: trained in place; moved to `device`.
        make_batches: batches from step to step, a function of the step number alone so that runs resume.
        compute_losses: named losses of a batch, with the sum to minimise under `total`.
        config: the schedule; a run may go on under another one.
        checkpoint: file that holds all that is needed to go on; written every `checkpoint_seconds` and at the end.
        device: where to train.
        settings: whatever else must be the same for a run to go on.
        minutes: stop after so many, leaving a checkpoint.
        describe: title of the progress bar.

    Raises:
        FloatingPointError: the losses stopped being finite.
        ValueError: the checkpoint is from a run with other settings.
    """
    run = _Run(network, config, device, settings)
    if checkpoint.exists():
        run.load(checkpoint)
    began = lap = saved_at = time.monotonic()
    with (
        Interruptible() as interrupted,
        tqdm(total=config.steps, initial=run.step, desc=describe, unit='step', mininterval=2) as progress,
    ):
        for batch in make_batches(run.step, config.steps) if run.step < config.steps else ():
            run.take_step(batch, compute_losses)
            progress.update()
            progress.set_postfix({name: f'{mean:.3f}' for name, mean in run.means.items()}, refresh=False)
            now = time.monotonic()
            run.seconds, lap = run.seconds + now - lap, now
            if now - saved_at > config.checkpoint_seconds:
                run.save(checkpoint)
                saved_at = now
            if interrupted() or (minutes is not None and now - began > 60 * minutes):
                break
    run.save(checkpoint)
    return Outcome(run.step, run.seconds, run.means, run.step >= config.steps)


class Interruptible:
    """Within it, the first SIGINT or SIGTERM is noted rather than raised, so that a step is never cut in two."""

    def __enter__(self) -> Callable[[], bool]:
        self.noted = False
        self.previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return lambda: self.noted

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.noted = True


def pick_device(name: str) -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:1`; `auto` takes a GPU where there is one.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if name.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f"device '{name}' was asked for, but PyTorch sees no CUDA GPU here; use device=cpu or auto")
    return torch.device(name)
