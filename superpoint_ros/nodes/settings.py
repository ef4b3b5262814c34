"""The front-end nodes' parameters, and what they mean to the classes that do the work."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from superpoint_ros.detector import Detector
from superpoint_ros.engines import ENGINES, PRECISIONS
from superpoint_ros.frontend import Frontend
from superpoint_ros.keypoints import MOST_LEVELS, MOST_PER_OCTAVE, KeypointSettings
from superpoint_ros.matching import MatchSettings
from superpoint_ros.messages import DESCRIPTOR_TYPES
from superpoint_ros.nodes.optics import RECTIFICATIONS
from superpoint_ros.nodes.parameters import NEXT_IMAGE, ON_ACTIVATION, ON_RELOAD, ON_START, Parameter
from superpoint_ros.openvino_runtime import forget_traces
from superpoint_ros.stereo import StereoSettings
from superpoint_ros.tracks import TrackSettings

_KEYPOINTS, _MATCHING, _TRACKS, _STEREO = KeypointSettings(), MatchSettings(), TrackSettings(), StereoSettings()

PARAMETERS = (
    Parameter(
        'autostart', False, 'Configure and activate at start, without a lifecycle manager.', takes_effect=ON_START
    ),
    Parameter(
        'weights',
        'superpoint',
        'superpoint, superpoint_small, goodpoint, unsuperpoint, kp2d, or a .safetensors file.',
        takes_effect=ON_RELOAD,
    ),
    Parameter('device', 'auto', 'auto, cpu, cuda, or cuda:N.', form=r'auto|cpu|cuda(:\d+)?', takes_effect=ON_RELOAD),
    Parameter(
        'engine',
        'auto',
        'auto, torch or openvino; auto takes OpenVINO on CPUs where it is installed.',
        choices=ENGINES,
        takes_effect=ON_RELOAD,
    ),
    Parameter(
        'precision',
        'auto',
        'auto, float32, bfloat16, float16 (CUDA) or int8 (OpenVINO); auto takes the fastest the device supports.',
        choices=PRECISIONS,
        takes_effect=ON_RELOAD,
    ),
    Parameter(
        'warm_up_width',
        640,
        'Width of your images, pixels: the network is prepared for it. Others work, too.',
        low=8,
        high=16384,
    ),
    Parameter('warm_up_height', 480, 'Height of your images, pixels.', low=8, high=16384),
    Parameter(
        'mask', '', "Picture that is black where no keypoints are wanted, such as on the robot itself; '' is none."
    ),
    Parameter(
        'calibration',
        '',
        "File of ROS, Kalibr, EuRoC, ORB-SLAM or VINS-Fusion (YAML) in place of `camera_info`; '' is none.",
    ),
    Parameter(
        'image_transport',
        'raw',
        'raw: `image` is an Image; compressed: it is a CompressedImage.',
        choices=('raw', 'compressed'),
        takes_effect=ON_ACTIVATION,
    ),
    Parameter(
        'image_reliability',
        'auto',
        'QoS of `image`: best_effort loses large ones; reliable receives nothing from best-effort publishers; auto is '
        'what all offer.',
        choices=('auto', 'best_effort', 'reliable'),
        takes_effect=ON_ACTIVATION,
    ),
    Parameter(
        'rectification',
        'raw',
        'raw: `image` is distorted and stays so, only rays are undistorted; rectify: the node undistorts `image`; '
        'rectified: `image` is undistorted already (image_rect), rays follow from P.',
        choices=RECTIFICATIONS,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'descriptor_type',
        'int8',
        'Type of the descriptors in `features`: float32, or int8 with a quarter of the bytes.',
        choices=DESCRIPTOR_TYPES,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'stale_after',
        2.0,
        'Seconds without an image, or without a processed one, before /diagnostics warns.',
        low=0.1,
        high=3600.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'max_keypoints',
        _KEYPOINTS.max_keypoints,
        'Maximum number of keypoints in an image; the best are kept.',
        low=1,
        high=20000,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'detection_threshold',
        _KEYPOINTS.detection_threshold,
        'Minimum probability of a keypoint at its own level; its `score` may be lower.',
        low=0.0,
        high=0.999,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'nms_radius',
        _KEYPOINTS.nms_radius,
        'Minimum distance between keypoints of one level in x or y, pixels of that level; not for unsuperpoint, kp2d.',
        low=0,
        high=64,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'border',
        _KEYPOINTS.border,
        'Width of the strip along the edges that has no keypoints, pixels of each level.',
        low=0,
        high=1024,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'subpixel',
        _KEYPOINTS.subpixel,
        'Refine positions to a fraction of a pixel; not for unsuperpoint, kp2d, whose positions already are.',
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'spread',
        _KEYPOINTS.spread,
        'Side of the grid cells over which keypoints are spread evenly, pixels; 0 takes the best anywhere.',
        low=0,
        high=1024,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'levels',
        _KEYPOINTS.levels,
        'Number of image sizes searched for keypoints; 1, the full size alone, takes half the time of 4.',
        low=1,
        high=MOST_LEVELS,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'levels_per_octave',
        _KEYPOINTS.levels_per_octave,
        'Levels from one size to half of it: with 2 each is 0.71 of the one before, with 3 (then use 6 levels) 0.79.',
        low=1,
        high=MOST_PER_OCTAVE,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'matching.min_similarity',
        _MATCHING.min_similarity,
        'Minimum similarity of a match: cosine of the descriptors, less 0.08 for each level between the features.',
        low=-1.0,
        high=1.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'matching.max_ratio',
        _MATCHING.max_ratio,
        "Lowe's ratio test: maximum ratio of the best to the second best descriptor distance; 1 disables it.",
        low=0.01,
        high=1.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'matching.search_radius',
        _MATCHING.search_radius,
        'Maximum motion of a feature between two images, pixels; 0 searches everywhere.',
        low=0.0,
        high=10000.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'matching.verify',
        _MATCHING.verify,
        'Check matches against the epipolar geometry that most of them agree on, see `inlier`.',
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'matching.inlier_threshold',
        _MATCHING.inlier_threshold,
        'Maximum distance of an inlier from its epipolar line, or curve in a distorted image, pixels.',
        low=0.01,
        high=100.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'tracks.max_missed',
        _TRACKS.max_missed,
        'Number of successive images without it that a track survives.',
        low=0,
        high=100,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'tracks.min_similarity',
        _TRACKS.min_similarity,
        'Minimum similarity, as above, of a feature to the lost track that it continues.',
        low=-1.0,
        high=1.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'tracks.search_radius',
        _TRACKS.search_radius,
        'Maximum distance from where a lost track was last seen, pixels; 0 searches everywhere.',
        low=0.0,
        high=10000.0,
        takes_effect=NEXT_IMAGE,
    ),
)
_OF_CAMERAS = {
    'mask': "Picture that is black where no keypoints are wanted; {camera} is the camera's name; '' is none.",
    'calibration': "File of each camera, {camera} its name, or of all in order, in place of `camera_info`; '' is none.",
}
_COMMON = tuple(replace(each, description=_OF_CAMERAS.get(each.name, each.description)) for each in PARAMETERS)

STEREO_PARAMETERS = (
    *_COMMON,
    Parameter(
        'pairing.slop',
        0.0,
        'Maximum difference between the stamps of a pair, seconds; 0 pairs equal stamps.',
        low=0.0,
        high=1.0,
        takes_effect=ON_ACTIVATION,
    ),
    Parameter(
        'stereo.epipolar_tolerance',
        _STEREO.epipolar_tolerance,
        'Maximum distance of a match from its row, rectified pixels.',
        low=0.01,
        high=100.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'stereo.min_disparity',
        _STEREO.min_disparity,
        'Minimum disparity beyond that of infinity, rectified pixels; slightly below 0 matches infinity, too.',
        low=-100.0,
        high=10000.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'stereo.max_disparity',
        _STEREO.max_disparity,
        'Maximum disparity beyond that of infinity, rectified pixels: nothing nearer than f * baseline / this matches.',
        low=0.0,
        high=10000.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'stereo.min_similarity',
        _STEREO.min_similarity,
        'Minimum cosine of the descriptors of a match.',
        low=-1.0,
        high=1.0,
        takes_effect=NEXT_IMAGE,
    ),
    Parameter(
        'stereo.max_ratio',
        _STEREO.max_ratio,
        "Lowe's ratio test among the features of the row; 1 disables it.",
        low=0.01,
        high=1.0,
        takes_effect=NEXT_IMAGE,
    ),
)

RIG_PARAMETERS = (
    *_COMMON,
    Parameter('cameras', ['front', 'left', 'right', 'back'], 'Names of the cameras, with which their topics begin.'),
    Parameter(
        'gather',
        0.02,
        'Maximum time that an image waits for those of other cameras to make one batch, seconds; 0 does not wait, nor '
        'does OpenVINO, which runs no batches.',
        low=0.0,
        high=1.0,
        takes_effect=NEXT_IMAGE,
    ),
)


@dataclass(frozen=True)
class Settings:
    """What may change from one image to the next."""

    keypoints: KeypointSettings
    matching: MatchSettings
    tracks: TrackSettings
    stereo: StereoSettings
    rectification: str
    descriptor_type: str
    stale_after: float

    @classmethod
    def of(cls, values: dict[str, Any]) -> Settings:
        """Settings of parameter values by name.

        Raises:
            ValueError: a value that its class refuses.
        """
        return cls(
            keypoints=_group(KeypointSettings, values, ''),
            matching=_group(MatchSettings, values, 'matching.'),
            tracks=_group(TrackSettings, values, 'tracks.'),
            stereo=_group(StereoSettings, values, 'stereo.'),
            rectification=values['rectification'],
            descriptor_type=values['descriptor_type'],
            stale_after=values['stale_after'],
        )

    def apply(self, frontend: Frontend) -> None:
        """Make a front-end follow these settings from its next image on."""
        frontend.detector.settings = self.keypoints
        frontend.match_settings = self.matching
        frontend.track_settings = self.tracks


def load_detector(values: dict[str, Any], device: str | None = None, images: int = 1) -> Detector:
    """The detector that the parameters ask for, warmed up; on a device given, with what suits it best.

    images: that may come at once.

    Raises:
        WeightsError, EngineError, ValueError: see `Detector.load`.
    """
    if device is not None:
        values = values | {'device': device, 'engine': 'auto', 'precision': 'auto'}
    choice = {name: values[name] for name in ('device', 'engine', 'precision')}
    detector = Detector.load(values['weights'], **choice)
    detector.settings = _group(KeypointSettings, values, '')
    for count in {1, images} if detector.engine.batches else {1}:
        detector.warm_up(values['warm_up_height'], values['warm_up_width'], count)
    forget_traces()
    return detector


def _group(kind: Any, values: dict[str, Any], prefix: str) -> Any:
    """An instance of a settings class from those of its fields that are parameters."""
    names = (field.name for field in fields(kind))
    return kind(**{name: values[prefix + name] for name in names if prefix + name in values})
