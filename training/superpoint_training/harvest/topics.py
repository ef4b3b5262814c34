"""Which topics of which recordings are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from superpoint_ros.recordings import (
    Bag,
    RecordingError,
    Source,
    TopicSummary,
    busiest,
    open_source,
)
from superpoint_training.harvest.settings import HarvestError


@dataclass(frozen=True)
class Feed:
    """A recording and the image topics of it that are read.

    Attributes:
        source: the recording.
        topics: names, each once.
        summaries: of these topics.
    """

    source: Source
    topics: tuple[str, ...]
    summaries: tuple[TopicSummary, ...]


def list_topics(paths: Sequence[Path]) -> list[TopicSummary]:
    """What recordings hold: topics with type, count, rate, size and times; a video or folder counts as one topic.

    Raises:
        HarvestError: one of them can't be read.
    """
    return [topic for path in paths for topic in open_checked(path).topics()]


def open_checked(path: Path) -> Source:
    """Open a recording.

    Raises:
        HarvestError: it can't be read.
    """
    try:
        return open_source(Path(path).expanduser())
    except (RecordingError, OSError) as error:
        raise HarvestError(
            f'{error} A recording is a rosbag2, a ROS 1 bag, a video or a folder of pictures.'
        ) from error


def open_feeds(recordings: Sequence[Path], wanted: Sequence[str] | None) -> list[Feed]:
    """Open recordings and find the topics to read.

    Args:
        recordings: the same one twice counts once.
        wanted: image topics; None takes of each bag the topic with the most images that are not depth. A video or
            a folder is one camera, which is read in any case.

    Raises:
        HarvestError: a recording can't be read, or a topic is in none of them, or has no images.
    """
    if not recordings:
        raise HarvestError('No recording is given.')
    sources = [open_checked(path) for path in dict.fromkeys(Path(path).expanduser() for path in recordings)]
    listed = [source.topics() for source in sources]
    for name in wanted or ():
        _check_topic(name, [topic for source, topics in zip(sources, listed, strict=True) for topic in topics
                            if isinstance(source, Bag)])  # fmt: skip
    feeds = []
    for source, topics in zip(sources, listed, strict=True):
        images = [topic for topic in topics if topic.has_images and topic.count]
        if isinstance(source, Bag) and images:
            images = [topic for topic in images if topic.name in wanted] if wanted else [busiest(source, images)]
        if images:
            feeds.append(Feed(source, tuple(dict.fromkeys(topic.name for topic in images)), tuple(images)))
    if not feeds:
        held = ', '.join(f'{topic.name} ({topic.type})' for topics in listed for topic in topics) or 'nothing'
        raise HarvestError(f'There are no images in {", ".join(map(str, recordings))}; held there: {held}.')
    return feeds


def _check_topic(name: str, topics: list[TopicSummary]) -> None:
    """Refuse a topic that gives no images, naming those that do."""
    named = [topic for topic in topics if topic.name == name]
    if any(topic.has_images and topic.count for topic in named) or not topics:
        return
    images = {topic.name: topic.count for topic in topics if topic.has_images and topic.count}
    choice = ', '.join(f'{topic} ({count} images)' for topic, count in sorted(images.items())) or 'no topic at all'
    close = get_close_matches(name, images, n=1, cutoff=0.4)
    hint = f" Did you mean '{close[0]}'?" if close else ''
    if not named:
        problem = f"No recording has a topic '{name}'."
    elif named[0].has_images:
        problem = f"The topic '{name}' was recorded, but holds no image."
    else:
        problem = f"The topic '{name}' holds {named[0].type}, no images."
    raise HarvestError(f'{problem} Images are on {choice}.{hint}')
