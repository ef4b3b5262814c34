"""The demo's recording: what a real camera would see in the gallery, as a bag, and where each pixel went."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from superpoint_ros.demo.gallery import camera_pose, gallery
from superpoint_ros.demo.scene import Pinhole
from superpoint_ros.photographs import photographs
from superpoint_ros.recordings import RecordingError

CAMERA = Pinhole(width=640, height=480, focal=460.0)
RATE = 30.0
START_NS = 1_000_000_000 * 10**9
EXPOSURE = 0.012
"""Seconds that the shutter is open; a frame's stamp is the middle of it."""

SUB_FRAMES = ((-0.375, -0.25, -0.25), (-0.125, 0.25, 0.25), (0.125, -0.25, 0.25), (0.375, 0.25, -0.25))
"""Instant (share of the exposure), x and y (pixels) of the pictures averaged into a frame.

They blur motion and smooth edges at once, and their mean is the stamped instant and the pixel's centre.
"""

Image = NDArray[np.uint8]


class Gallery:
    """The recording of `frames` pictures; the same seed gives the same pixels."""

    def __init__(self, frames: int = 150, seed: int = 0) -> None:
        self.frames = frames
        self.seed = seed
        self.scene = gallery(seed)

    def stamp(self, index: int) -> int:
        """The stamp of a frame in nanoseconds."""
        return START_NS + round(index * 1e9 / RATE)

    def image(self, index: int) -> Image:
        """Render a frame [H, W, 3] uint8 (blue, green, red): motion blur, exposure, vignetting and noise."""
        time = index / RATE
        total = np.zeros((CAMERA.height, CAMERA.width, 3), np.float32)
        for instant, dx, dy in SUB_FRAMES:
            camera = Pinhole(CAMERA.width, CAMERA.height, CAMERA.focal, offset=(-dx, -dy))
            total += self.scene.render(camera, camera_pose(time + instant * EXPOSURE), detail=0.5)
        linear = total / len(SUB_FRAMES) * _gain(time) * _VIGNETTE
        rng = np.random.default_rng([self.seed, index])
        # Shot noise grows with the root of the light; read-out noise is everywhere.
        noise = rng.standard_normal(linear.shape, np.float32) * np.sqrt(2.0 + 0.03 * linear)
        return np.clip(linear + noise, 0, 255).astype(np.uint8)

    def images(self) -> Iterator[Image]:
        """Render all frames in order, on two threads."""
        with ThreadPoolExecutor(2) as pool:
            yield from pool.map(self.image, range(self.frames))

    def transfer(self, source_ns: int, target_ns: int, pixels: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
        """Follow pixels [N, 2] from the frame of one stamp to that of another; see `Scene.transfer`."""
        source, target = (camera_pose((stamp - START_NS) / 1e9) for stamp in (source_ns, target_ns))
        return self.scene.transfer(CAMERA, source, target, pixels)

    def bag(self, folder: Path) -> Path:
        """Return the recording's bag below `folder`, rendered unless an identical one is there already."""
        digest = hashlib.sha256(repr((self.frames, self.seed, np.__version__, cv2.__version__)).encode())
        for file in (*sorted(Path(__file__).parent.rglob('*.py')), *photographs()):
            digest.update(file.read_bytes())
        path = folder / f'gallery-{digest.hexdigest()[:12]}'
        if not path.exists():
            for stale in folder.glob('gallery-*'):
                if re.fullmatch(r'gallery-[0-9a-f]{12}(\.partial)?', stale.name):
                    remove_recording(stale)
            print(f'Rendering {self.frames} images into {path} ...', flush=True)
            partial = folder / f'{path.name}.partial'
            self._write(partial)
            partial.rename(path)
        return path

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        types = get_typestore(Stores.ROS2_JAZZY)
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            images = writer.add_connection('/camera/image_raw', _IMAGE, typestore=types)
            infos = writer.add_connection('/camera/camera_info', _CAMERA_INFO, typestore=types)
            for index, image in enumerate(self.images()):
                stamp = self.stamp(index)
                time = types.types[_TIME](sec=stamp // 10**9, nanosec=stamp % 10**9)
                header = types.types[_HEADER](stamp=time, frame_id='camera_optical_frame')
                info, picture = _camera_info(types, header), _picture(types, header, image)
                writer.write(infos, stamp, types.serialize_cdr(info, _CAMERA_INFO))
                writer.write(images, stamp, types.serialize_cdr(picture, _IMAGE))


def remove_recording(path: Path) -> None:
    """Remove an earlier recording of the demo's, if there is one.

    Raises:
        RecordingError: what is there is something else.
    """
    if not path.exists():
        return
    files = sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else [path]
    own = 'metadata.yaml', f'{path.name}.mcap', f'{path.name}.partial.mcap'
    strange = [file for file in files if file == path or file.name not in own]
    if strange:
        raise RecordingError(f'The demo would write to {path}, where something else is: {strange[0]}.')
    shutil.rmtree(path)


_TIME, _HEADER = 'builtin_interfaces/msg/Time', 'std_msgs/msg/Header'
_IMAGE, _CAMERA_INFO = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CameraInfo'
_REGION = 'sensor_msgs/msg/RegionOfInterest'


def _picture(types: Typestore, header: Any, image: Image) -> Any:
    return types.types[_IMAGE](
        header=header,
        height=CAMERA.height,
        width=CAMERA.width,
        encoding='bgr8',
        is_bigendian=0,
        step=3 * CAMERA.width,
        data=image.reshape(-1),
    )


def _camera_info(types: Typestore, header: Any) -> Any:
    region = types.types[_REGION](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return types.types[_CAMERA_INFO](
        header=header,
        height=CAMERA.height,
        width=CAMERA.width,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=CAMERA.matrix.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=(CAMERA.matrix @ np.eye(3, 4)).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def _gain(time: float) -> float:
    """Exposure over time: slow drift, and a lamp that goes out within a fifth of a second at 3 s."""
    lamp = 1 / (1 + np.exp(min((time - 3.0) / 0.05, 50.0)))
    return float((1.0 + 0.15 * np.sin(2 * np.pi * time / 2.3)) * (0.75 + 0.35 * lamp))


def _vignette() -> NDArray[np.float32]:
    """Light that reaches each pixel [H, W, 1]: the square of the cosine of its ray's angle to the axis."""
    y, x = np.mgrid[: CAMERA.height, : CAMERA.width].astype(np.float32)
    radius = np.hypot(x - CAMERA.matrix[0, 2], y - CAMERA.matrix[1, 2])
    return np.cos(np.arctan(radius / CAMERA.focal))[..., None].astype(np.float32) ** 2


_VIGNETTE = _vignette()
