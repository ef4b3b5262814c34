"""Grey frames of a bag, a video or a folder of pictures, in the order they were taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from superpoint_ros.images import ImageError, to_array
from superpoint_ros.recordings import CutShortError, RecordingError, busiest, open_source
from superpoint_training.evaluation.problems import Skipped


@dataclass(frozen=True, eq=False)
class RecordedFrames:
    """The first frames of a recording.

    Attributes:
        name: of the file or folder, and the topic.
        frames: `[H, W]` uint8 each.
    """

    name: str
    frames: list[np.ndarray]


def read_frames(path: Path, topic: str, most: int) -> tuple[RecordedFrames, list[Skipped]]:
    """The first so many frames of a topic, and what could not be read.

    Args:
        topic: of a bag; empty takes the one with the most images that are not depth.

    Raises:
        ValueError: nothing can be read, or the topic has no images.
    """
    source = open_source(path)
    summaries = [summary for summary in source.topics() if summary.has_images]
    names = sorted(summary.name for summary in summaries)
    if not names or (topic and topic not in names):
        wanted = f"on '{topic}'" if topic else 'at all'
        raise RecordingError(f"'{path}' has no images {wanted}; it has some on: {', '.join(names) or 'nothing'}")
    topic = topic or busiest(source, summaries).name
    frames: list[np.ndarray] = []
    causes: Counter[str] = Counter()
    damage = []
    try:
        for record in source.records([topic]):
            if len(frames) >= most:
                break
            try:
                frames.append(np.array(to_array(record.load())))
            except (ImageError, RecordingError) as error:
                causes[str(error)] += 1
    except CutShortError as error:
        damage.append(Skipped(path.name, str(error)))
    if not frames:
        raise RecordingError(f"no image on '{topic}' of '{path}' can be read: {', '.join(causes) or 'there are none'}")
    skipped = [Skipped(f'{path.name}, {count} images', cause) for cause, count in causes.items()]
    return RecordedFrames(f'{path.name} {topic}', frames), skipped + damage
