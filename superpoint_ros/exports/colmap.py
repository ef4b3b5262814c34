"""Recorded `features` -> a COLMAP database, which COLMAP or pycolmap then reconstructs.

export_colmap features.mcap out/
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from superpoint_ros.arguments import at_least
from superpoint_ros.camera import Camera
from superpoint_ros.clouds import FeatureCloud, dequantise
from superpoint_ros.exports.recorded import RecordedFeatures, read_recorded
from superpoint_ros.features import Features
from superpoint_ros.matching import MatchSettings, match, verify

HALF_A_PIXEL = 0.5
"""COLMAP has the middle of the top left pixel at (0.5, 0.5), and here it is (0, 0)."""
DATABASE = 'database.db'


class ExportError(ValueError):
    """What can't be exported, and why."""


@dataclass(frozen=True)
class ExportSettings:
    """Which pairs of frames.

    Attributes:
        window: frames are matched to so many before; beyond, to those 2, 4, 8 ... times as far.
        fewest: inliers of a pair that is worth writing.
        matching: of two frames' descriptors.
    """

    window: int = 10
    fewest: int = 20
    matching: MatchSettings = field(default_factory=lambda: MatchSettings(max_ratio=0.95))


def pairs(count: int, window: int) -> Iterator[tuple[int, int]]:
    """Pairs (earlier, later) of `count` frames: all up to `window` apart, and those 2, 4, 8 ... windows apart."""
    gaps = list(range(1, window + 1))
    while (gap := 2 * gaps[-1]) < count:
        gaps.append(gap)
    for later in range(count):
        yield from ((later - gap, later) for gap in gaps if gap <= later)


def export(recorded: RecordedFeatures, folder: Path, settings: ExportSettings) -> dict[str, int]:
    """Write `folder`/database.db anew: one camera, an image a frame, keypoints, and verified matches.

    Images are named by their stamps in nanoseconds. Returns how many images and pairs there are.

    Raises:
        ExportError: pycolmap is not installed, there is no calibration, or COLMAP lacks its lens.
    """
    pycolmap = _pycolmap()
    if recorded.camera is None:
        raise ExportError('The bag has no calibration beside `features`: record `camera_info`, or name its topic.')
    lens = colmap_camera(recorded.camera)
    folder.mkdir(parents=True, exist_ok=True)
    frames = recorded.frames
    with _new_database(folder / DATABASE) as database:
        camera_id = database.write_camera(lens)
        sensor = pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id)
        rig = pycolmap.Rig()
        rig.add_ref_sensor(sensor)
        rig_id = database.write_rig(rig)
        image_ids = [_write_image(database, frame, camera_id, sensor, rig_id) for frame in frames]
        # Those of the messages are NaN where features were recorded before their calibration came.
        rays = [recorded.camera.rays(frame.keypoints) for frame in frames]
        written = 0
        for earlier, later in pairs(len(frames), settings.window):
            both = (frames[earlier], rays[earlier]), (frames[later], rays[later])
            inliers = _inliers(*both, settings.matching, recorded.camera)
            if len(inliers) >= settings.fewest:
                _write_pair(database, image_ids[earlier], image_ids[later], inliers)
                written += 1
    return {'images': len(frames), 'pairs': written}


def colmap_camera(camera: Camera) -> Any:
    """`pycolmap.Camera` of the same lens; OpenCV's coefficients are COLMAP's in the same order.

    Raises:
        ExportError: pycolmap is not installed, or COLMAP lacks the lens's thin-prism or tilt terms.
    """
    pycolmap = _pycolmap()
    distortion = camera.distortion.tolist()
    if any(distortion[8:]):
        raise ExportError('COLMAP knows no thin-prism or tilt distortion: record with rectification:=rectify.')
    if camera.model == 'none':
        model, distortion = 'PINHOLE', []
    elif camera.model == 'equidistant':
        model = 'OPENCV_FISHEYE'
    elif any(distortion[4:]):
        model, distortion = 'FULL_OPENCV', (distortion + 3 * [0.0])[:8]
    else:
        model, distortion = 'OPENCV', distortion[:4]
    (fx, _, cx), (_, fy, cy), _ = camera.K.tolist()
    return pycolmap.Camera(
        model=model,
        width=camera.width,
        height=camera.height,
        params=[fx, fy, cx + HALF_A_PIXEL, cy + HALF_A_PIXEL, *distortion],
        has_prior_focal_length=True,
    )


@contextmanager
def _new_database(path: Path) -> Iterator[Any]:
    """An empty one, which takes the place of a former one when all is written."""
    partial = path.with_name(f'{path.name}.partial')
    partial.unlink(missing_ok=True)
    database = _pycolmap().Database.open(partial)
    try:
        yield database
    except BaseException:
        database.close()
        partial.unlink(missing_ok=True)
        raise
    database.close()
    partial.replace(path)


def _write_image(database: Any, frame: FeatureCloud, camera_id: int, sensor: Any, rig_id: int) -> int:
    pycolmap = _pycolmap()
    image = pycolmap.Image(name=f'{frame.stamp_ns}.jpg', camera_id=camera_id)
    image.image_id = database.write_image(image)
    database.write_keypoints(image.image_id, frame.keypoints + np.float32(HALF_A_PIXEL))
    moment = pycolmap.Frame()
    moment.rig_id = rig_id
    moment.add_data_id(pycolmap.data_t(sensor, image.image_id))
    database.write_frame(moment)
    return int(image.image_id)


def _inliers(
    earlier: tuple[FeatureCloud, np.ndarray],
    later: tuple[FeatureCloud, np.ndarray],
    settings: MatchSettings,
    camera: Camera,
) -> np.ndarray:
    """[M, 2] uint32: rows in both frames, each given with its rays."""
    query, train = (
        Features(frame.keypoints, frame.scores, dequantise(frame.descriptors), frame.levels)
        for frame, _ in (later, earlier)
    )
    found = match(query, train, settings)
    found = verify(found, later[1], earlier[1], settings, camera)
    return np.column_stack([found.train, found.query])[found.inlier].astype(np.uint32)


def _write_pair(database: Any, one: int, other: int, inliers: np.ndarray) -> None:
    pycolmap = _pycolmap()
    geometry = pycolmap.TwoViewGeometry()
    geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
    geometry.inlier_matches = inliers
    database.write_matches(one, other, inliers)
    database.write_two_view_geometry(one, other, geometry)


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise ExportError(f"pycolmap is needed: pip install '.[backends]' ({error}).") from error
    return pycolmap


def main(args: list[str] | None = None) -> None:
    """Export a bag; ends with status 1 and a message when it can't, and 130 when it is interrupted."""
    defaults = ExportSettings()
    parser = argparse.ArgumentParser(prog='export_colmap', description=__doc__)
    parser.add_argument('bag', type=Path, help='bag with `features` and `camera_info`')
    parser.add_argument('out', type=Path, help='folder for database.db')
    parser.add_argument('--topic', default='', help='of the features, where the bag has several cameras')
    parser.add_argument('--camera-info-topic', default='', help='of the calibration, where the bag has several')
    parser.add_argument('--every', type=at_least(1), default=1, help='each n-th frame; default: %(default)s')
    parser.add_argument(
        '--window',
        type=at_least(1),
        default=defaults.window,
        help='match a frame to so many before it, and some further away; default: %(default)s',
    )
    options = parser.parse_args(args)
    settings = ExportSettings(window=options.window)
    try:
        recorded = read_recorded(options.bag, options.topic, options.camera_info_topic, options.every)
        counts = export(recorded, options.out, settings)
    except (ValueError, OSError) as error:
        sys.exit(f'export_colmap: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    print(f'{options.out / DATABASE}: {counts["images"]} images, {counts["pairs"]} verified pairs.')
    if not counts['pairs']:
        sys.exit('export_colmap: no two frames show the same: there is nothing to reconstruct.')


if __name__ == '__main__':
    main()
