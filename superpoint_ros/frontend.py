"""The whole chain for one camera: image -> features -> matches -> tracks. Knows no ROS."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from superpoint_ros.camera import Camera
from superpoint_ros.detector import Detector
from superpoint_ros.features import Features
from superpoint_ros.matching import Matches, MatchSettings, match, verify
from superpoint_ros.stopwatch import Stopwatch
from superpoint_ros.tracks import Ids, Tracker, TrackSettings

LARGEST_RUN_ID = 2**24 - 1  # float32, the type that VINS back-ends read ids in, is exact up to here


@dataclass(frozen=True)
class Frame:
    """One image and its relation to the image before. Rows of [N] arrays are features."""

    stamp_ns: int
    """When the image was taken."""
    image_size: tuple[int, int]
    """Width and height in pixels."""
    features: Features
    rays: np.ndarray
    """[N, 3] float32 in the optical frame, undistorted, z = 1; NaN without a calibration."""
    track_ids: np.ndarray
    """[N] uint32, from 1; a track survives frames that do not see it."""
    track_ages: np.ndarray
    """[N] uint16, frames in which the track was seen, this one included; 1 is new."""
    run_ids: np.ndarray
    """[N] uint32, 1 to 2^24 - 1: of runs of frames without a gap, each linked to the one before by an inlier
    match and known rays in both. A run has its id from its second frame on; 0 where there is none."""
    velocities: np.ndarray
    """[N, 2] float32, change of the ray's x and y per second since the previous frame; 0 where not known."""
    matches: Matches
    """To the previous frame; empty in the first."""
    previous_stamp_ns: int | None
    """None in the first frame, and after time went back or the image's size changed."""
    previous_keypoints: np.ndarray
    """[K, 2] float32, which `matches.train` refers to."""
    timings: dict[str, float]
    """Milliseconds: network, keypoints, descriptors (see `Detector.detect`), matching, verification, tracks."""


class Frontend:
    """Processes the images of one camera in their order.

    An image of another size than the one before, or with an earlier stamp (a bag that starts again), begins
    anew: without matches, and with new tracks, whose ids still differ from all earlier ones. So does the
    first image after `detector` was replaced; `camera`, `match_settings` and `track_settings` may be replaced
    without that. When `process` raises, the next image is matched to the last one that went through.
    Not for use by several threads at once.
    """

    def __init__(
        self,
        detector: Detector,
        match_settings: MatchSettings | None = None,
        track_settings: TrackSettings | None = None,
        camera: Camera | None = None,
        place: tuple[int, int] = (0, 1),
    ) -> None:
        """Begin.

        camera: of the images as they are given to `process`; without one there are no rays.
        place: which one of how many cameras of a rig this is; no two of them give the same id.
        """
        self._detector = detector
        self.match_settings = match_settings or MatchSettings()
        self._camera = camera
        self._place = place
        self._tracker = Tracker(track_settings, *place)
        self._run_ids = Ids(LARGEST_RUN_ID, *place)
        self._previous: Frame | None = None

    @property
    def detector(self) -> Detector:
        """Finds the features."""
        return self._detector

    @detector.setter
    def detector(self, detector: Detector) -> None:
        self._detector = detector
        self.begin_anew()  # descriptors of different networks do not compare

    @property
    def camera(self) -> Camera | None:
        """Gives the rays; None: there are none, and matches are verified by the fundamental matrix.

        The image before keeps the rays of its own camera, such as one whose lens was at another zoom, unless it had
        none or there are none any more.
        """
        return self._camera

    @camera.setter
    def camera(self, camera: Camera | None) -> None:
        known_before, self._camera = self._camera is not None, camera
        if self._previous and known_before != (camera is not None):
            self._previous = replace(self._previous, rays=self._rays(self._previous.features))

    @property
    def track_settings(self) -> TrackSettings:
        """When a track goes on after frames without it."""
        return self._tracker.settings

    @track_settings.setter
    def track_settings(self, settings: TrackSettings) -> None:
        self._tracker.settings = settings

    def reset(self) -> None:
        """Begin anew, with ids from the first."""
        self._tracker = Tracker(self._tracker.settings, *self._place)
        self._run_ids = Ids(LARGEST_RUN_ID, *self._place)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the images so far, as when the next ones do not compare with them; ids go on."""
        self._tracker.forget()
        self._previous = None

    def process(self, image: np.ndarray, stamp_ns: int, mask: np.ndarray | None = None) -> Frame:
        """Take the next image; image, mask and errors as in `Detector.detect`."""
        stopwatch = Stopwatch()
        features = self.detector.detect(image, mask, stopwatch)
        return self.advance(features, (image.shape[1], image.shape[0]), stamp_ns, stopwatch)

    def advance(
        self, features: Features, image_size: tuple[int, int], stamp_ns: int, stopwatch: Stopwatch | None = None
    ) -> Frame:
        """Take the features of the next image, where they were found elsewhere, as with those of other cameras.

        image_size: width and height, pixels. stopwatch: has the time that finding them took.
        """
        stopwatch = stopwatch or Stopwatch()
        rays = self._rays(features)

        if self._previous and (self._previous.image_size != image_size or self._previous.stamp_ns > stamp_ns):
            self.begin_anew()
        previous = self._previous
        matches = self._match(features, rays, previous, stopwatch)
        track_ids, track_ages = self._tracker.update(features, matches)
        run_ids = self._continue_runs(rays, matches, previous)
        velocities = _velocities(rays, stamp_ns, matches, previous)
        stopwatch.lap('tracks')

        self._previous = Frame(
            stamp_ns=stamp_ns,
            image_size=image_size,
            features=features,
            rays=rays,
            track_ids=track_ids,
            track_ages=track_ages,
            run_ids=run_ids,
            velocities=velocities,
            matches=matches,
            previous_stamp_ns=previous.stamp_ns if previous else None,
            previous_keypoints=previous.features.keypoints if previous else np.zeros((0, 2), np.float32),
            timings=stopwatch.laps,
        )
        return self._previous

    def _rays(self, features: Features) -> np.ndarray:
        if self._camera is None:
            return np.full((len(features), 3), np.nan, np.float32)
        return self._camera.rays(features.keypoints)

    def _match(self, features: Features, rays: np.ndarray, previous: Frame | None, stopwatch: Stopwatch) -> Matches:
        if previous is None:
            return Matches.empty()
        settings = self.match_settings
        matches = match(features, previous.features, settings)
        stopwatch.lap('matching')
        if settings.verify and self._camera:
            matches = verify(matches, rays, previous.rays, settings, self._camera)
        elif settings.verify:
            matches = verify(matches, features.keypoints, previous.features.keypoints, settings)
        stopwatch.lap('verification')
        return matches

    def _continue_runs(self, rays: np.ndarray, matches: Matches, previous: Frame | None) -> np.ndarray:
        ids = np.zeros(len(rays), np.uint32)
        if previous:
            query, train = matches.query[matches.inlier], matches.train[matches.inlier]
            known = np.isfinite(rays[query]).all(axis=1) & np.isfinite(previous.rays[train]).all(axis=1)
            query, train = query[known], train[known]
            ids[query] = previous.run_ids[train]
            new = query[ids[query] == 0]
            ids[new] = self._run_ids.take(len(new), in_use=ids)
        return ids


def _velocities(rays: np.ndarray, stamp_ns: int, matches: Matches, previous: Frame | None) -> np.ndarray:
    """[N, 2] float32; 0 for features that no inlier match links to the previous frame, and without rays."""
    velocities = np.zeros((len(rays), 2), np.float32)
    if previous and stamp_ns > previous.stamp_ns:
        query, train = matches.query[matches.inlier], matches.train[matches.inlier]
        moved = rays[query, :2] - previous.rays[train, :2]
        velocities[query] = np.nan_to_num(moved * (1e9 / (stamp_ns - previous.stamp_ns)))
    return velocities
