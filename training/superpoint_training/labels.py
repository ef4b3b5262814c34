"""Pseudo-labels: the file that holds them, and the work of making them, alone or shared between processes."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import math
import time
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from superpoint_training.adaptation import Adaptation, LabelConfig, find_labels
from superpoint_training.distributed import World
from superpoint_training.files import write_whole
from superpoint_training.interruptible import Interruptible

SAVE_SECONDS = 30

FORMAT = 2
"""Of labels with probabilities and places between pixels; the first had neither, and is not gone on with."""


class NamedFrames(Protocol):
    """Pictures by index, `[H, W]` uint8 grey of any sizes, each with a name and a checksum; see `Frames`."""

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...

    def checksum(self, index: int, /) -> int: ...


class Labels:
    """Keypoints by frame name, in one `.npz`.

    Attributes:
        by_name: `[N, 3]` float32 (x, y, probability), best first; see `adaptation.find_labels`.
        about: how they were made.
        checksums: of the pictures that they were made from, by name, see `Frames.checksum`; none or 0 of one that is
            not known.
    """

    def __init__(
        self, by_name: dict[str, np.ndarray], about: dict[str, object], checksums: Mapping[str, int] | None = None
    ) -> None:
        self.by_name = by_name
        self.about = about
        self.checksums = dict(checksums or {})

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def density(self) -> float:
        """Mean number of labels a frame."""
        return float(np.mean([len(points) for points in self.by_name.values()])) if self.by_name else 0.0

    @property
    def expected(self) -> float:
        """Mean number of keypoints a frame: the sum of its labels' probabilities."""
        return float(np.mean([points[:, 2].sum() for points in self.by_name.values()])) if self.by_name else 0.0

    def made_from_others(self, frames: NamedFrames) -> list[str]:
        """Names of the frames whose labels were made from other pictures of these names, as far as that is known."""
        return [
            name
            for index, name in enumerate(frames.names)
            if self.checksums.get(name, 0) not in (0, frames.checksum(index))
        ]

    def not_made(self) -> set[str]:
        """Names of the frames without labels of which no picture is known: they could not be read."""
        return {name for name, points in self.by_name.items() if not len(points) and not self.checksums.get(name)}

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            TrainingError: the disk is full, say.
        """
        lengths = np.array([len(points) for points in self.by_name.values()], np.int64)
        points = np.concatenate([np.zeros((0, 3), np.float32), *self.by_name.values()])
        content = io.BytesIO()
        np.savez_compressed(
            content, names=np.array(list(self.by_name), np.str_), lengths=lengths, keypoints=points[:, :2],
            probabilities=points[:, 2], about=np.array(json.dumps(self.about)),
            checksums=np.array([self.checksums.get(name, 0) for name in self.by_name], np.uint32),
        )  # fmt: skip
        write_whole(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Labels:
        """Read the file. Labels of the first format, which had no probabilities, are sure.

        Raises:
            ValueError: missing or not written by `save`.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                keypoints = file['keypoints'].astype(np.float32)
                sure = np.ones(len(keypoints), np.float32)
                probabilities = file.get('probabilities', sure)
                parts = np.split(np.column_stack([keypoints, probabilities]), np.cumsum(file['lengths']))
                names = [str(name) for name in file['names']]
                checksums = file.get('checksums', np.zeros(len(names), np.uint32)).tolist()
                return cls(
                    dict(zip(names, parts[:-1], strict=True)),
                    json.loads(str(file['about'])),
                    dict(zip(names, checksums, strict=True)),
                )
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"'{path}' is not a labels file: {error}") from error


def label_frames(
    network: nn.Module,
    frames: NamedFrames,
    config: LabelConfig,
    out: Path,
    *,
    world: World,
    seed: int = 0,
    minutes: float | None = None,
    describe: str = 'labelling',
) -> tuple[Labels, bool]:
    """Label what is not labelled yet, until all is done, the minutes are over or a signal comes.

    The labels of a frame are a function of the network, the configuration, the seed, the frame and its number, however
    many processes share the work and however often it was stopped. Every process keeps what it made in a file beside
    `out`, at least every `SAVE_SECONDS`; rank 0 merges them at the end, and at the beginning those of a run that was
    killed. On several machines `out` must be in a folder that all of them see. A frame that can't be read has no
    labels until it is labelled again.

    Args:
        network: the detector, in eval mode; moved to the world's device.
        frames: to be labelled.
        config: views, scales, threshold.
        out: labels file (`.npz`), which is continued if it exists.
        world: this process and those that share the work.
        seed: of the random views; another one for another round.
        minutes: stop after so many.
        describe: title of the progress bar.

    Returns:
        the labels of all frames that have some yet, the same in all processes; and whether these are all frames, and no
        signal came.

    Raises:
        TrainingError: memory, disk or another process failed.
        ValueError: the file was begun with another configuration, network, seed or `FORMAT`, or with other pictures of
            the same names.
    """
    network = network.to(world.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    about = _as_stored({'format': FORMAT, 'config': asdict(config), 'network': _digest(network), 'seed': seed})
    done = world.from_first(_labelled_before(out, about, frames) if world.first else set())
    todo = [index for index, name in enumerate(frames.names) if name not in done][world.rank :: world.size]
    own, own_file = Labels({}, about), _part(out, world.rank)
    adaptation = Adaptation(network, config, world.device)
    saved_at = time.monotonic()
    deadline = math.inf if minutes is None else saved_at + 60 * minutes
    with (
        Interruptible() as interrupted,
        tqdm(total=len(todo), desc=describe, unit='frame', mininterval=2, disable=not world.first) as progress,
    ):
        for index in todo:
            _label(own, frames, index, adaptation, np.random.default_rng([seed, index]))
            progress.update()
            now = time.monotonic()
            if now - saved_at > SAVE_SECONDS:
                own.save(own_file)
                saved_at = now
            if interrupted() or now > deadline:
                break
    own.save(own_file)
    world.wait()
    labels = world.from_first(_merged(out, about, frames) if world.first else own)
    # A signal at the last frame is not for labelling alone.
    return labels, not world.from_first(interrupted()) and all(name in labels.by_name for name in frames.names)


def _label(labels: Labels, frames: NamedFrames, index: int, adaptation: Adaptation, rng: np.random.Generator) -> None:
    """Add the labels of a frame; none, with a warning, if it can't be read."""
    name = frames.names[index]
    try:
        frame = frames[index]
    except ValueError as error:
        warnings.warn(f'{error}: it gets no labels', stacklevel=2)
        labels.by_name[name] = np.zeros((0, 3), np.float32)
    else:
        labels.by_name[name] = find_labels(adaptation.scores(frame, rng), adaptation.config)
        labels.checksums[name] = frames.checksum(index)


def _part(out: Path, rank: int | str) -> Path:
    return out.with_name(f'{out.stem}.rank{rank}.npz')


def _labelled_before(out: Path, about: dict[str, object], frames: NamedFrames) -> set[str]:
    """Names of the frames that need no labelling any more."""
    labels = _merged(out, about, frames)
    others = labels.made_from_others(frames)
    if others:
        raise ValueError(
            f"'{out}' has labels of other pictures than these with the same names, '{others[0]}' for one: remove it or "
            'write elsewhere'
        )
    return set(labels.by_name) - labels.not_made()


def _merged(out: Path, about: dict[str, object], frames: NamedFrames) -> Labels:
    """One file out of the labels file and all parts beside it, in the order of the frames."""
    found: dict[str, np.ndarray] = {}
    checksums: dict[str, int] = {}
    parts = sorted(out.parent.glob(_part(Path(glob.escape(out.name)), '*').name))
    for path in [out, *parts] if out.exists() else parts:
        labels = Labels.load(path)
        if any(labels.about.get(key) != value for key, value in about.items()):
            raise ValueError(
                f"'{path}' was begun with another configuration, network, seed or version: remove it or write elsewhere"
            )
        found |= labels.by_name
        checksums |= labels.checksums
    ordered = {name: found[name] for name in frames.names if name in found} | found
    labels = Labels(ordered, about, checksums)
    labels.save(out)
    for path in parts:
        path.unlink()
    return labels


def _digest(network: nn.Module) -> str:
    """A fingerprint of a network's values."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _as_stored(value: dict[str, object]) -> dict[str, object]:
    """As JSON gives it back: tuples become lists."""
    stored: dict[str, object] = json.loads(json.dumps(value))
    return stored
