"""What can be set about a harvest, and what ends one."""

from __future__ import annotations

from dataclasses import dataclass

from superpoint_training.failures import TrainingError

SMALLEST_SIDE = 32
"""Pixels; smaller pictures show too little to learn from."""


class HarvestError(TrainingError):
    """Recordings that give no frames to train on; the message says why and what to do."""


@dataclass(frozen=True)
class HarvestConfig:
    """Which frames are taken, and how they are stored.

    Attributes:
        train_frames: frames to train on, at most.
        held_out_frames: frames to judge by, at most.
        held_out_share: share of the recorded frames that is held out, at most; 0 holds none out.
        held_out_run: recorded frames in a row that a held-out block has at least, where the recording is long
            enough: pairs of real frames can be as far apart.
        gap_seconds: time on either side of a held-out block whose frames are not used. It shrinks on short
            recordings, so that all gaps together take no more of them than `held_out_share`.
        short_side: stored frames have a shorter side of so many pixels, or fewer if they were recorded so. 480 is
            what most cameras send a front-end and the larger size of the evaluation protocols; more costs disk and
            time at every use, less can't be had back.
        min_sharpness: a frame is blurred when its sharpness is below this share of the median around it, which
            most frames under 9 px of motion blur are.
        min_sharpness_floor: a frame of less sharpness is blurred whatever the others are (see `measuring.sharpness`).
        neighbourhood_seconds: how far around a frame that median reaches.
        max_clipped: a frame is under- or over-exposed when a larger share of it is black or white.
        min_contrast: a frame whose grey levels span less, percentile 5 to 95, shows nothing.
        min_change: two frames are nearly the same when their normalised thumbnails differ by less (root mean
            square; 0.06 is about 3 px of motion at 640x480).
        min_train_frames: fewer are an error.
        first_frames: use only so many images from the start of each topic of each recording.
        first_seconds: use only so long a part from the start of each topic of each recording.
        seed: of where held-out blocks lie.
    """

    train_frames: int = 2000
    held_out_frames: int = 200
    held_out_share: float = 0.2
    held_out_run: int = 24
    gap_seconds: float = 2.0
    short_side: int = 480
    min_sharpness: float = 0.6
    min_sharpness_floor: float = 0.2
    neighbourhood_seconds: float = 5.0
    max_clipped: float = 0.75
    min_contrast: float = 12.0
    min_change: float = 0.06
    min_train_frames: int = 20
    first_frames: int | None = None
    first_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if min(self.train_frames, self.held_out_run, self.min_train_frames) < 1 or self.held_out_frames < 0:
            raise ValueError('train_frames, held_out_run and min_train_frames must be at least 1, held_out_frames 0')
        if not 0 <= self.held_out_share < 1:
            raise ValueError('held_out_share must be at least 0 and less than 1')
        if self.short_side < SMALLEST_SIDE:
            raise ValueError(f'short_side must be at least {SMALLEST_SIDE} pixels')
        if self.gap_seconds < 0 or self.neighbourhood_seconds <= 0:
            raise ValueError('gap_seconds must not be negative, and neighbourhood_seconds be more than 0')
        if self.first_frames is not None and self.first_frames < 1:
            raise ValueError('first_frames must be at least 1')
        if self.first_seconds is not None and self.first_seconds <= 0:
            raise ValueError('first_seconds must be more than 0')
