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


def train(
    network: nn.Module,
    make_batches: Callable[[int, int], Iterator[Batch]],
    compute_losses: Callable[[nn.Module, Batch], Losses],
    config: LoopConfig,
    checkpoint: Path,
    *,
    device: torch.device,
    minutes: float | None = None,
    describe: str = 'training',
) -> Outcome:
    """Train until the schedule ends, the minutes are over or a signal comes; go on from the checkpoint if it exists.

    Forward passes run in bfloat16 autocast. A step whose loss is not finite is left out, and a hundred in a row
    end the run.

    Args:
        network: trained in place; moved to `device`.
        make_batches: batches from step to step, a function of the step number alone so that runs resume.
        compute_losses: named losses of a batch, with the sum to minimise under `total`.
        config: the schedule.
        checkpoint: file that holds all that is needed to go on; written every `checkpoint_seconds` and at the end.
        device: where to train.
        minutes: stop after so many, leaving a checkpoint.
        describe: title of the progress bar.

    Raises:
        FloatingPointError: the losses stopped being finite.
    """
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    start, spent, means = 0, 0.0, {}
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(saved['network'])
        optimizer.load_state_dict(saved['optimizer'])
        start, spent, means = saved['step'], saved['seconds'], saved['losses']

    began = saved_at = time.monotonic()
    step, bad_in_a_row = start, 0

    def save() -> None:
        state = {
            'network': network.state_dict(), 'optimizer': optimizer.state_dict(), 'step': step,
            'seconds': spent + time.monotonic() - began, 'losses': means,
        }  # fmt: skip
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = checkpoint.with_name(checkpoint.name + '.partial')
        torch.save(state, partial)
        partial.replace(checkpoint)

    with (
        Interruptible() as interrupted,
        tqdm(total=config.steps, initial=start, desc=describe, unit='step', mininterval=2, smoothing=0.05) as progress,
    ):
        for batch in make_batches(start, config.steps) if start < config.steps else ():
            for group in optimizer.param_groups:
                group['lr'] = learning_rate(step, config)
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            with torch.autocast(device.type, torch.bfloat16):
                losses = compute_losses(network, batch)
            optimizer.zero_grad(set_to_none=True)
            if bool(torch.isfinite(losses['total'])):
                losses['total'].backward()
                nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
                optimizer.step()
                bad_in_a_row = 0
                for name, loss in losses.items():
                    means[name] = means.get(name, float(loss.detach())) * 0.99 + float(loss.detach()) * 0.01
            else:
                bad_in_a_row += 1
                if bad_in_a_row == 100:
                    raise FloatingPointError(f'the loss was not finite 100 steps in a row, up to step {step}')
            step += 1
            progress.update()
            progress.set_postfix({name: f'{mean:.3f}' for name, mean in means.items()}, refresh=False)
            if time.monotonic() - saved_at > config.checkpoint_seconds:
                save()
                saved_at = time.monotonic()
            if interrupted() or (minutes is not None and time.monotonic() - began > 60 * minutes):
                break
    save()
    return Outcome(step, spent + time.monotonic() - began, means, step >= config.steps)


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
