"""Several cameras and one network: their images run as one batch, and no two tracks have the same id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from superpoint_ros.detector import Detector
from superpoint_ros.frontend import Frame, Frontend
from superpoint_ros.stopwatch import Stopwatch


@dataclass(frozen=True)
class Shot:
    """One image of one camera; image and mask as in `Detector.detect`."""

    image: np.ndarray
    stamp_ns: int
    mask: np.ndarray | None = None


class Rig:
    """A `Frontend` for each camera. Not for use by several threads at once."""

    def __init__(self, detector: Detector, cameras: int) -> None:
        """cameras: how many there are. Their calibrations and settings are those of their front-ends."""
        self.frontends = tuple(Frontend(detector, place=(index, cameras)) for index in range(cameras))

    @property
    def detector(self) -> Detector:
        """Finds the features in all images."""
        return self.frontends[0].detector

    @detector.setter
    def detector(self, detector: Detector) -> None:
        for frontend in self.frontends:
            frontend.detector = detector

    def reset(self) -> None:
        """Begin anew, with ids from the first."""
        for frontend in self.frontends:
            frontend.reset()

    def process(self, shots: Mapping[int, Shot]) -> dict[int, Frame]:
        """Take the next image of some cameras, by their number; errors as in `Detector.detect`.

        Of a frame's timings, network, keypoints and descriptors are those of all images together.
        """
        watch = Stopwatch()
        images, masks = [shot.image for shot in shots.values()], [shot.mask for shot in shots.values()]
        batch = self.detector.detect_batch(images, masks, watch)
        frames = {}
        for (index, shot), features in zip(shots.items(), batch, strict=True):
            height, width = shot.image.shape[:2]
            own_watch = Stopwatch(watch.laps)
            frames[index] = self.frontends[index].advance(features, (width, height), shot.stamp_ns, own_watch)
        return frames
