"""How far the trajectories are off that `visual_odometry.py` and COLMAP make of the front-end's messages.

    python examples/measure_trajectories.py path/to/sequences --output out/trajectories

Needs three sequences with poses, each a folder with pictures, `intrinsics.yaml`, `timestamps.txt` and `poses.txt`: a
hand-held kitchen (7-Scenes), a street in stereo (KITTI), and a drone in stereo that stands still (EuRoC). Each
detector's features go through the same front-end, the same messages and the same consumers; `--live` lets our own
play over topics, in real time, too. Writes figures.json, a table and pictures. Errors are those of evo.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from evo.core import metrics
from evo.core.filters import FilterException
from evo.core.trajectory import PoseTrajectory3D
from measured_sequences import Sequence, load
from played_live import play
from scipy.optimize import minimize
from std_msgs.msg import Header
from visual_odometry import Sight, VisualOdometry, from_features, from_stereo_matches

from superpoint_ros.detector import Detector
from superpoint_ros.exports.colmap import DATABASE, ExportSettings, export
from superpoint_ros.exports.recorded import RecordedFeatures
from superpoint_ros.frontend import Frame, Frontend
from superpoint_ros.matching import MatchSettings
from superpoint_ros.messages import encode_features, encode_stereo_matches, read_features
from superpoint_ros.stereo import StereoCamera, StereoSettings, match_stereo
from superpoint_training.peers import PEERS, Detect, make_detector

KITCHEN, STREET, AT_REST = '7scenes_redkitchen_a', 'kitti_stereo_1', 'euroc_v1_01_stereo'
DETECTORS = ('superpoint', 'superpoint_small', 'sift', 'orb')
KEYPOINTS = 1000
RATIOS = {'sift': 0.8, 'orb': 0.9}
"""Of Lowe's test: without it the peers' matches are no good. Ours needs none."""
FOCAL_DOUBT = 0.03
"""Of the kitchen's focal length, which its file calls no calibration."""
LINES = {'odometry': '-', 'live': '-.'}
"""How what a consumer makes is drawn; of others the figures say enough."""
SEGMENTS = (10, 20, 30, 40, 50)
"""Metres along the path over which relative errors are averaged, as KITTI does over 100 to 800 m."""


@dataclass(frozen=True)
class Trajectory:
    """What a consumer made of a sequence.

    Attributes:
        poses: camera to world [4, 4] by their frame's index.
        focal: the focal length that it found, as a multiple of the one given.
    """

    poses: dict[int, np.ndarray]
    focal: float = 1.0

    def pair(self, sequence: Sequence, align: bool, scale: bool) -> tuple[PoseTrajectory3D, PoseTrajectory3D]:
        """Truth and estimate as evo takes them, of the same frames; the estimate moved to fit the truth."""
        rows = sorted(self.poses)
        times = sequence.stamps[rows] / 1e9
        truth = PoseTrajectory3D(poses_se3=list(sequence.poses[rows]), timestamps=times)
        found = PoseTrajectory3D(poses_se3=[self.poses[row] for row in rows], timestamps=times)
        if align:
            found.align(truth, correct_scale=scale)
        else:
            found.transform(sequence.poses[rows[0]] @ np.linalg.inv(self.poses[rows[0]]))
        return truth, found


def ate(truth: PoseTrajectory3D, found: PoseTrajectory3D) -> float:
    """Root mean square distance of the positions, metres."""
    error = metrics.APE(metrics.PoseRelation.translation_part)
    error.process_data((truth, found))
    return float(error.get_statistic(metrics.StatisticsType.rmse))


def ate_of_another_body(truth: PoseTrajectory3D, found: PoseTrajectory3D) -> tuple[float, list[float]]:
    """What is left of the error after a Sim(3) when the true poses may be those of another body than the camera.

    Returns it with where in that body's frame the camera sits then, both in metres. Three more numbers are fitted:
    this tells what an error is made of, and is not to be compared with one that is aligned as usual.
    """

    def error(seat: np.ndarray) -> float:
        camera, fitted, offset = deepcopy(truth), deepcopy(found), np.eye(4)
        offset[:3, 3] = seat
        camera.transform(offset, right_mul=True)
        fitted.align(camera, correct_scale=True)
        return ate(camera, fitted)

    best = minimize(error, np.zeros(3), method='Nelder-Mead', options={'initial_simplex': [[0] * 3, *0.1 * np.eye(3)]})
    return float(best.fun), best.x.tolist()


def drift(truth: PoseTrajectory3D, found: PoseTrajectory3D) -> dict[str, float]:
    """Translation error in % and rotation error in degrees a metre, means over segments of all lengths."""
    relations = {'percent': metrics.PoseRelation.translation_part, 'deg_per_m': metrics.PoseRelation.rotation_angle_deg}
    means = {}
    for name, relation in relations.items():
        errors = []
        for length in SEGMENTS:
            error = metrics.RPE(relation, length, metrics.Unit.meters, all_pairs=True)
            with suppress(FilterException):  # so many frames were dropped that no two are that far apart
                error.process_data((deepcopy(truth), deepcopy(found)))
                errors += (np.asarray(error.error) / length).tolist()
        means[name] = float(np.mean(errors)) * (100 if name == 'percent' else 1) if errors else float('nan')
    return means


def load_detector(name: str) -> Detect:
    """Our weights with the node's settings, or one of OpenCV's."""
    return make_detector(name) if name in PEERS else Detector.load(name, max_keypoints=KEYPOINTS).detect


class Features:
    """A detector's features of one camera, through the front-end."""

    def __init__(self, detect: Detect, sequence: Sequence, camera: int, name: str) -> None:
        ratio = MatchSettings(max_ratio=RATIOS.get(name, 1.0))
        self._frontend = Frontend(None, ratio, camera=sequence.cameras[camera])  # type: ignore[arg-type]
        self._detect, self._sequence, self._camera = detect, sequence, camera

    def frames(self) -> Iterator[Frame]:
        """Frame by frame."""
        for index, stamp in enumerate(self._sequence.stamps.tolist()):
            picture = self._sequence.picture(index, self._camera)
            features = self._detect(picture)
            best = features.take(np.arange(min(KEYPOINTS, len(features))))
            yield self._frontend.advance(best, (picture.shape[1], picture.shape[0]), stamp)


def follow(sights: Iterable[Sight], stamps: np.ndarray, focal_doubt: float = 0.0) -> Trajectory:
    """Run the odometry without topics."""
    odometry, poses = VisualOdometry(focal_doubt), {}
    for index, (sight, step) in enumerate(zip(sights, np.diff(stamps, prepend=stamps[0]), strict=True)):
        pose = odometry.update(*sight, seconds=step / 1e9)
        if pose is not None:
            poses[index] = pose
    return Trajectory(poses, odometry.focal)


def measure_kitchen(name: str, detect: Detect, kitchen: Sequence) -> tuple[dict[str, Any], dict[str, Any]]:
    """One camera by the odometry, and by COLMAP from the same messages."""
    messages = [encode_features(frame, header(frame), 'int8') for frame in Features(detect, kitchen, 0, name).frames()]
    recorded = RecordedFeatures([read_features(message) for message in messages], kitchen.cameras[0])
    sights = [from_features(message) for message in messages]
    made = {
        'odometry': follow(sights, kitchen.stamps, FOCAL_DOUBT),
        'odometry, focal length as given': follow(sights, kitchen.stamps),
        'COLMAP': reconstruct(recorded, kitchen),
    }
    figures: dict[str, Any] = {'frames': len(kitchen.stamps)}
    for label, trajectory in made.items():
        truth, found = trajectory.pair(kitchen, align=True, scale=True)
        figures[label] = {
            'ate_m': ate(truth, found),
            'another_body': ate_of_another_body(truth, found),
            'poses': len(trajectory.poses),
            'focal': trajectory.focal,
        }
    return figures, made


def reconstruct(recorded: RecordedFeatures, kitchen: Sequence, every: int = 5) -> Trajectory:
    """COLMAP's incremental mapper, as it comes, on each fifth frame; the mean of its focal lengths."""
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        export(replace(recorded, frames=recorded.frames[::every]), out, ExportSettings())
        options = pycolmap.IncrementalPipelineOptions(extract_colors=False, random_seed=0)
        models = pycolmap.incremental_mapping(out / DATABASE, out, out, options)
    best = max(models.values(), key=lambda model: model.num_reg_images())
    index_of = {stamp: index for index, stamp in enumerate(kitchen.stamps.tolist())}
    poses = {}
    for image in best.images.values():
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().inverse().matrix()
        poses[index_of[int(image.name.removesuffix('.jpg'))]] = pose
    [camera] = best.cameras.values()
    K = kitchen.cameras[0].K
    return Trajectory(poses, float(np.mean(camera.params[:2] / [K[0, 0], K[1, 1]])))


def measure_stereo(name: str, detect: Detect, sequence: Sequence) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two cameras by the odometry, metric."""
    pair = StereoCamera(*sequence.cameras)
    settings = StereoSettings(max_ratio=RATIOS.get(name, 1.0))
    sights, residuals, counts = [], [], []
    sides = (Features(detect, sequence, camera, name).frames() for camera in (0, 1))
    for left, right in zip(*sides, strict=True):
        matches = match_stereo(left.features, right.features, pair, settings)
        residuals += np.abs(matches.residual).tolist()
        counts.append(len(matches))
        sights.append(from_stereo_matches(encode_stereo_matches(matches, left, right, header(left))))
    trajectory = follow(sights, sequence.stamps)
    figures = stereo_figures(sequence, trajectory)
    figures |= {'matches': float(np.mean(counts)), 'epipolar_px': float(np.median(residuals))}
    return figures, {'odometry': trajectory}


def stereo_figures(sequence: Sequence, trajectory: Trajectory) -> dict[str, Any]:
    """Errors of a metric trajectory: over segments of a path, or of one that stands still, how far it goes astray."""
    figures: dict[str, Any] = {'frames': len(sequence.stamps), 'poses': len(trajectory.poses)}
    truth, found = trajectory.pair(sequence, align=False, scale=False)
    end = np.linalg.inv(truth.poses_se3[-1]) @ found.poses_se3[-1]
    figures['end_m'] = float(np.linalg.norm(end[:3, 3]))
    if truth.path_length > SEGMENTS[0]:
        figures |= drift(truth, found)
        figures['end_percent'] = 100 * figures['end_m'] / truth.path_length
        angle = np.arccos(np.clip((np.trace(end[:3, :3]) - 1) / 2, -1, 1))
        figures['end_deg_per_m'] = float(np.degrees(angle)) / truth.path_length
    else:
        figures['farthest_m'] = float(np.linalg.norm(found.positions_xyz - found.positions_xyz[0], axis=1).max())
    return figures


def header(frame: Frame) -> Header:
    """Of a frame's messages."""
    made = Header(frame_id='camera')
    made.stamp.sec, made.stamp.nanosec = divmod(frame.stamp_ns, 10**9)
    return made


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sequences', type=Path)
    parser.add_argument('--output', type=Path, default=Path('out/trajectories'))
    parser.add_argument('--detectors', nargs='+', action='extend', choices=DETECTORS, help='default: all')
    parser.add_argument(
        '--live', nargs='*', action='extend', default=[], help='weights that play over topics, in real time'
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    sequences = {name: load(options.sequences / name) for name in (KITCHEN, STREET, AT_REST)}
    figures: dict[str, dict[str, Any]] = {name: {} for name in sequences}
    made: dict[str, dict[str, Any]] = {name: {} for name in sequences}
    for name in options.detectors or DETECTORS:
        detect = load_detector(name)
        for key, sequence in sequences.items():
            measure = measure_kitchen if key == KITCHEN else measure_stereo
            figures[key][name], trajectories = measure(name, detect, sequence)
            made[key] |= {f'{name}, {label}': trajectory for label, trajectory in trajectories.items()}
            print(key, name, json.dumps(figures[key][name]), flush=True)
    for weights in options.live:
        for key, sequence in sequences.items():
            doubt = FOCAL_DOUBT if key == KITCHEN else 0.0
            trajectory = Trajectory(play(sequence, weights, options.output, doubt))
            if key == KITCHEN:
                pair = trajectory.pair(sequence, align=True, scale=True)
                live = {'ate_m': ate(*pair), 'poses': len(trajectory.poses), 'frames': len(sequence.stamps)}
            else:
                live = stereo_figures(sequence, trajectory)
            figures[key][f'{weights}, live'] = live
            made[key][f'{weights}, live'] = trajectory
            print(key, weights, 'live', json.dumps(live), flush=True)
    (options.output / 'figures.json').write_text(json.dumps(figures, indent=2) + '\n')
    draw(sequences, made, options.output)


def draw(sequences: dict[str, Sequence], made: dict[str, dict[str, Trajectory]], output: Path) -> None:
    """A top view of each sequence's trajectories, and how far they are off over time. A colour is a detector."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot

    colours = {name: f'C{index}' for index, name in enumerate(DETECTORS)}
    for key, sequence in sequences.items():
        figure, (top, errors) = pyplot.subplots(1, 2, figsize=(11, 5), layout='constrained')
        top.plot(*sequence.poses[:, [0, 2], 3].T, 'k', linewidth=5, alpha=0.25, label='truth')
        for label, trajectory in made[key].items():
            detector, consumer = label.split(', ', 1)
            if consumer not in LINES:
                continue
            line = {'color': colours[detector], 'linestyle': LINES[consumer], 'linewidth': 1.2}
            fit = key == KITCHEN
            truth, found = trajectory.pair(sequence, align=fit, scale=fit)
            top.plot(*found.positions_xyz[:, [0, 2]].T, label=label, **line)
            off = np.linalg.norm(found.positions_xyz - truth.positions_xyz, axis=1)
            errors.semilogy(truth.timestamps - sequence.stamps[0] / 1e9, off, **line)
        top.set(xlabel='x, m', ylabel='z, m', title=f'{key}, from above')
        errors.set(xlabel='s', ylabel='m', title='off the truth', ylim=(1e-3, None))
        figure.legend(loc='outside lower center', ncols=3, fontsize=8)
        figure.savefig(output / f'{key}.png', dpi=80)
        pyplot.close(figure)


if __name__ == '__main__':
    main()
