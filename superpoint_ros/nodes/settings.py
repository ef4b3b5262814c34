"""The front-end nodes' parameters, and what they mean to the classes that do the work."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from superpoint_ros.detector import Detector
from superpoint_ros.engines import ENGINES, PRECISIONS
from superpoint_ros.frontend import Frontend
from superpoint_ros.keypoints import MOST_LEVELS, MOST_PER_OCTAVE, KeypointSettings
from superpoint_ros.matching import MatchSettings
from superpoint_ros.messages import DESCRIPTOR_TYPES
from superpoint_ros.nodes.optics import RECTIFICATIONS
from superpoint_ros.nodes.parameters import Parameter
from superpoint_ros.stereo import StereoSettings
from superpoint_ros.tracks import TrackSettings

_KEYPOINTS, _MATCHING, _TRACKS, _STEREO = KeypointSettings(), MatchSettings(), TrackSettings(), StereoSettings()

PARAMETERS = (
    Parameter('autostart', False, 'Configure and activate at start, without a lifecycle manager.'),
    Parameter(
        'weights',
        'superpoint',
        'superpoint, superpoint_small, goodpoint, unsuperpoint, kp2d, or a .safetensors file.',
    ),
    Parameter('device', 'auto', 'auto, cpu, cuda, or cuda:N.'),
    Parameter('engine', 'auto', 'What runs the network; auto takes the fastest here.', choices=ENGINES),
    Parameter('precision', 'auto', 'Number format of the network; auto suits the device.', choices=PRECISIONS),
    Parameter('warm_up_width', 640, 'Width of the pictures to prepare for, pixels.', low=8, high=16384),
    Parameter('warm_up_height', 480, 'Height of the pictures to prepare for, pixels.', low=8, high=16384),
    Parameter('mask', '', "Picture, black where no keypoint is wanted, as on the robot itself; '' is none."),
    Parameter(
        'image_transport',
        'raw',
        'raw: `image` is an Image; compressed: it is a CompressedImage.',
        choices=('raw', 'compressed'),
    ),
    Parameter(
        'image_reliability',
        'best_effort',
        'best_effort hears every publisher; reliable only reliable ones, but loses none of their images.',
        choices=('best_effort', 'reliable'),
    ),
    Parameter(
        'rectification',
        'raw',
        'raw: `image` is distorted, and rays are undistorted; rectify: undo the distortion of `image` here; '
        'rectified: `image` already is (image_rect), and rays follow from P.',
        choices=RECTIFICATIONS,
        live=True,
    ),
    Parameter(
        'descriptor_type',
        'int8',
        'Type of the descriptors in `features`: int8, a quarter of the bytes, or float32.',
        choices=DESCRIPTOR_TYPES,
        live=True,
    ),
    Parameter(
        'stale_after',
        2.0,
        'Seconds without an image, or with images of which none is processed, until /diagnostics warns.',
        low=0.1,
        high=3600.0,
        live=True,
    ),
    Parameter(
        'max_keypoints',
        _KEYPOINTS.max_keypoints,
        'Keypoints in an image, at most; the best are kept.',
        low=1,
        high=20000,
        live=True,
    ),
    Parameter(
        'detection_threshold',
        _KEYPOINTS.detection_threshold,
        'Least probability of a keypoint.',
        low=0.0,
        high=0.999,
        live=True,
    ),
    Parameter(
        'nms_radius',
        _KEYPOINTS.nms_radius,
        'No two keypoints are closer than this along both axes, pixels; not for unsuperpoint and kp2d.',
        low=0,
        high=64,
        live=True,
    ),
    Parameter(
        'border',
        _KEYPOINTS.border,
        'Width of the frame along the edges that has no keypoints, pixels.',
        low=0,
        high=1024,
        live=True,
    ),
    Parameter(
        'subpixel',
        _KEYPOINTS.subpixel,
        'Refine positions to a fraction of a pixel; not for unsuperpoint and kp2d.',
        live=True,
    ),
    Parameter(
        'spread',
        _KEYPOINTS.spread,
        'Side of the grid cells over which keypoints are spread evenly, pixels; 0 takes the best anywhere.',
        low=0,
        high=1024,
        live=True,
    ),
    Parameter(
        'levels',
        _KEYPOINTS.levels,
        'Sizes of the image that keypoints are found in, each 0.7 of the one before; 1 takes half the time of 4.',
        low=1,
        high=MOST_LEVELS,
        live=True,
    ),
    Parameter(
        'levels_per_octave',
        _KEYPOINTS.levels_per_octave,
        'Of these, from one size to half of it: with 3, and 6 levels, each is 0.8 of the one before.',
        low=1,
        high=MOST_PER_OCTAVE,
        live=True,
    ),
    Parameter(
        'matching.min_similarity',
        _MATCHING.min_similarity,
        'Least similarity of two features that match: cosine, less 0.08 for each level between them.',
        low=-1.0,
        high=1.0,
        live=True,
    ),
    Parameter(
        'matching.max_ratio',
        _MATCHING.max_ratio,
        'Most that the distance to the best match may be of that to the second best; 1 is no test.',
        low=0.01,
        high=1.0,
        live=True,
    ),
    Parameter(
        'matching.search_radius',
        _MATCHING.search_radius,
        'Most that a feature moves between two images, pixels; 0 searches everywhere.',
        low=0.0,
        high=10000.0,
        live=True,
    ),
    Parameter('matching.verify', _MATCHING.verify, 'Check matches against the motion of the camera.', live=True),
    Parameter(
        'matching.inlier_threshold',
        _MATCHING.inlier_threshold,
        'Most that an inlier is off its epipolar line, pixels.',
        low=0.01,
        high=100.0,
        live=True,
    ),
    Parameter(
        'tracks.max_missed',
        _TRACKS.max_missed,
        'Images in a row that a track survives without being seen.',
        low=0,
        high=100,
        live=True,
    ),
    Parameter(
        'tracks.min_similarity',
        _TRACKS.min_similarity,
        'Least similarity, likewise, of a feature to the lost track that it continues.',
        low=-1.0,
        high=1.0,
        live=True,
    ),
    Parameter(
        'tracks.search_radius',
        _TRACKS.search_radius,
        'Most pixels from where a lost track was last seen; 0 searches everywhere.',
        low=0.0,
        high=10000.0,
        live=True,
    ),
)
_MASKS = Parameter(
    'mask',
    '',
    "Picture, black where no keypoint is wanted; {camera} in its name stands for the camera's; '' is none.",
)
_COMMON = tuple(_MASKS if parameter.name == 'mask' else parameter for parameter in PARAMETERS)

STEREO_PARAMETERS = (
    *_COMMON,
    Parameter(
        'pairing.slop',
        0.0,
        'Most that the stamps of a left and a right image of one pair differ, seconds; 0 pairs equal stamps.',
        low=0.0,
        high=1.0,
    ),
    Parameter(
        'stereo.epipolar_tolerance',
        _STEREO.epipolar_tolerance,
        'Most that a match is off its row, rectified pixels.',
        low=0.01,
        high=100.0,
        live=True,
    ),
    Parameter(
        'stereo.min_disparity',
        _STEREO.min_disparity,
        'Least disparity, rectified pixels; a little below 0 matches what is infinitely far, too.',
        low=-100.0,
        high=10000.0,
        live=True,
    ),
    Parameter(
        'stereo.max_disparity',
        _STEREO.max_disparity,
        'Most disparity, rectified pixels; nearer than focal length times baseline over this nothing matches.',
        low=0.0,
        high=10000.0,
        live=True,
    ),
    Parameter(
        'stereo.min_similarity',
        _STEREO.min_similarity,
        'Least cosine similarity of two descriptors that match left to right.',
        low=-1.0,
        high=1.0,
        live=True,
    ),
    Parameter(
        'stereo.max_ratio',
        _STEREO.max_ratio,
        'Most that the distance to the best match may be of that to the second best in the row; 1 is no test.',
        low=0.01,
        high=1.0,
        live=True,
    ),
)

RIG_PARAMETERS = (
    *_COMMON,
    Parameter('cameras', ['front', 'left', 'right', 'back'], 'Names of the cameras; their topics begin with them.'),
    Parameter(
        'gather',
        0.02,
        'Most seconds that an image waits for those of the other cameras, to be one batch; 0 does not wait.',
        low=0.0,
        high=1.0,
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


def load_detector(values: dict[str, Any], device: str | None = None) -> Detector:
    """The detector that the parameters ask for, warmed up; on a device given, with what suits it best.

    Raises:
        WeightsError, EngineError, ValueError: see `Detector.load`.
    """
    if device is not None:
        values = values | {'device': device, 'engine': 'auto', 'precision': 'auto'}
    choice = {name: values[name] for name in ('device', 'engine', 'precision')}
    detector = Detector.load(values['weights'], **choice)
    detector.warm_up(values['warm_up_height'], values['warm_up_width'])
    return detector


def _group(kind: Any, values: dict[str, Any], prefix: str) -> Any:
    """An instance of a settings class from those of its fields that are parameters."""
    names = (field.name for field in fields(kind))
    return kind(**{name: values[prefix + name] for name in names if prefix + name in values})
