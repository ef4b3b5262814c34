"""Images in, keypoints and descriptors out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from superpoint_ros.device_sessions import Sessions
from superpoint_ros.engines import TorchEngine, engine_errors, load_engine
from superpoint_ros.features import Features
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.levels import Level, describe, find_keypoints, look
from superpoint_ros.networks import KeypointNetwork, load_network
from superpoint_ros.stopwatch import Stopwatch


class Detector:
    """A network, the engine that runs it, and the rules that make keypoints of its output.

    `settings` may be replaced between images. Not for use by several threads at once.
    """

    def __init__(
        self,
        network: KeypointNetwork,
        settings: KeypointSettings | None = None,
        *,
        name: str = 'network',
        device: str = 'auto',
        engine: str = 'auto',
        precision: str = 'auto',
    ) -> None:
        """Arguments and errors: see `load` and `engines.load_engine`."""
        self.settings = settings or KeypointSettings()
        self.stride, self.descriptor_stride = network.stride, network.descriptor_stride
        self.engine = load_engine(network, engine, device, precision)
        self.sessions: Sessions | None = None
        """Finds features without leaving the device; None where maps are all that there is."""
        if isinstance(self.engine, TorchEngine) and self.engine.device.type == 'cuda':
            self.sessions = Sessions(self.engine.network, network.config.descriptor_dim)
        self.description = f'{name}, {self.engine.description}'
        """Weights, engine, precision and device in one line, for people."""

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = 'superpoint',
        device: str = 'auto',
        *,
        engine: str = 'auto',
        precision: str = 'auto',
        **settings: Any,
    ) -> Detector:
        """Load weights that the package ships ('superpoint', 'superpoint_small', ...) or a file of your own.

        device: 'auto', 'cpu', 'cuda', 'cuda:1', ...; engine: 'auto', 'torch', 'openvino'; precision: 'auto',
        'float32', 'bfloat16', 'float16', 'int8'; see `engines.load_engine`. settings: the fields of
        `KeypointSettings`, such as `max_keypoints=500`.

        Raises WeightsError for unusable weights, EngineError for a device or an engine that this machine
        lacks, ValueError for a setting outside its range, TypeError for one that does not exist.
        """
        keypoint_settings = KeypointSettings(**settings)
        network = load_network(name_or_path)
        name = Path(name_or_path).name
        return cls(network, keypoint_settings, name=name, device=device, engine=engine, precision=precision)

    def detect(self, image: np.ndarray, mask: np.ndarray | None = None, stopwatch: Stopwatch | None = None) -> Features:
        """Find the keypoints of one image.

        image: [H, W] grey or [H, W, 3] RGB, uint8, of any size. mask: [H, W], zero where no keypoint is
        wanted, such as on the robot itself. stopwatch: gets laps 'network', 'keypoints' and 'descriptors'; on a
        CUDA device, which does all in one go, 'network' alone.
        Raises ValueError for anything else, EngineError when the network cannot run, such as on a GPU that
        vanished.
        """
        return self._detect([image], [mask], stopwatch or Stopwatch())[0]

    def detect_batch(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray | None] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> list[Features]:
        """Run `detect` on images of any sizes; with torch, neighbours of one size run as one batch."""
        masks = [None] * len(images) if masks is None else masks
        if len(masks) != len(images):
            raise ValueError(f'each image needs a mask or None: {len(images)} images, {len(masks)} masks')
        return self._detect(images, masks, stopwatch or Stopwatch())

    def warm_up(self, height: int, width: int, images: int = 1) -> None:
        """Run once on so many empty images, so that the first real batch of this size does not wait for set-up."""
        self.detect_batch([np.zeros((height, width), np.uint8)] * images)

    def _detect(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None], stopwatch: Stopwatch
    ) -> list[Features]:
        greys = [to_grey(image) for image in images]
        masks = [mask if mask is None else np.asarray(mask) for mask in masks]
        for grey, mask in zip(greys, masks, strict=True):
            if mask is not None and mask.shape != grey.shape:
                raise ValueError(f'mask must have the shape of the image, {grey.shape}, not {mask.shape}')
        if self.sessions is not None and not self.settings.spread:
            with engine_errors(self.engine.description):
                found = self.sessions.find(greys, masks, self.settings)
            stopwatch.lap('network')
            return found
        every = look(self.engine, greys, masks, self.settings, self.stride)
        stopwatch.lap('network')
        return [self._features(levels, stopwatch) for levels in every]

    def _features(self, levels: Sequence[Level], stopwatch: Stopwatch) -> Features:
        keypoints, scores, numbers = find_keypoints(levels, self.settings, self.stride)
        stopwatch.lap('keypoints')
        descriptors = describe(levels, keypoints, numbers, self.settings, self.descriptor_stride)
        stopwatch.lap('descriptors')
        return Features(keypoints, scores, descriptors, numbers)


def to_grey(image: np.ndarray) -> np.ndarray:
    """[H, W] or RGB [H, W, 3] uint8 -> [H, W] uint8. Raises ValueError for anything else."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f'image must be an array, not {type(image).__name__}, which OpenCV gives for a file not read')
    if image.dtype != np.uint8:
        raise ValueError(f'image must be uint8 in 0..255, not {image.dtype}; convert it first')
    if image.size == 0:
        raise ValueError(f'image is empty: shape {image.shape}')
    if image.ndim == 2:
        return image
    if image.ndim == 3 and image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    raise ValueError(f'image must be [H, W] grey or [H, W, 3] RGB, not of shape {image.shape}')
