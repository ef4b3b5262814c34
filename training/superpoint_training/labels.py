"""Pseudo-labels by homographic adaptation (SuperPoint, section 5), and the file that holds them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from superpoint_ros.keypoints import KeypointSettings, select_keypoints
from superpoint_ros.networks import STRIDE, SuperPoint, score_map
from superpoint_training.homographies import HomographyConfig, sample_homography, valid_mask


@dataclass(frozen=True)
class LabelConfig:
    """How frames are labelled.

    Attributes:
        views: N_h, the identity included.
        homographies: what the other views look like.
        erosion: pixels taken off each view's border, where the picture's own edge looks like a corner.
        min_views: a pixel needs so many views to be judged.
        threshold: smallest averaged probability of a label.
        nms_radius: pixels.
        max_keypoints: labels a frame.
    """

    views: int = 100
    homographies: HomographyConfig = field(default_factory=HomographyConfig)
    erosion: int = 3
    min_views: int = 2
    threshold: float = 0.015
    nms_radius: int = 4
    max_keypoints: int = 600

    def __post_init__(self) -> None:
        if self.views < 1 or self.min_views < 1:
            raise ValueError('views and min_views must be at least 1')


@torch.inference_mode()
def adapt(
    network: SuperPoint, frame: np.ndarray, rng: np.random.Generator, config: LabelConfig, device: torch.device
) -> np.ndarray:
    """Average a detector over random views of one frame.

    Each view's probabilities are warped back and summed; the sum is divided by the number of views that saw the
    pixel, borders of `erosion` pixels not counted. The first view is the frame itself.

    Args:
        frame: `[H, W]` uint8; cropped to multiples of 8 from the top left.

    Returns:
        `[H, W]` float32 of the cropped frame, 0 where fewer than `min_views` views saw the pixel.
    """
    height, width = (n // STRIDE * STRIDE for n in frame.shape)
    frame = frame[:height, :width]
    homographies = [np.eye(3)]
    homographies += [sample_homography(rng, height, width, config.homographies) for _ in range(config.views - 1)]
    views = np.stack([cv2.warpPerspective(frame, h, (width, height)) for h in homographies])
    seen = np.stack([valid_mask((height, width), h, height, width, config.erosion) for h in homographies])
    seen[0] = True
    images = torch.from_numpy(views).to(device)[:, None].float() / 255
    with torch.autocast(device.type, torch.bfloat16):
        logits = network(images.contiguous(memory_format=torch.channels_last))[0]
    masks = torch.from_numpy(seen).to(device).float()
    probabilities = score_map(logits) * masks
    grid = _grid(np.stack(homographies), height, width, device)
    back = grid_sample(torch.stack([probabilities, masks], dim=1), grid, align_corners=False)
    total, count = back.sum(dim=0)
    averaged = torch.where(count >= min(config.min_views, config.views), total / count.clamp(min=1), 0)
    return averaged.cpu().numpy()


def _grid(homographies: np.ndarray, height: int, width: int, device: torch.device) -> Tensor:
    """`[V, H, W, 2]` normalised positions in each view of the frame's pixels."""
    matrices = torch.from_numpy(homographies).float().to(device)
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing='ij')
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).float().reshape(1, -1, 3)
    mapped = pixels @ matrices.transpose(1, 2)
    # A pixel at or behind a view's horizon is sent outside, where the sample is 0.
    positions = torch.where(mapped[..., 2:] > 1e-6, mapped[..., :2] / mapped[..., 2:], torch.inf)
    size = torch.tensor([width, height], device=device)
    normalised = ((positions + 0.5) / size * 2 - 1).clamp(-4, 4)
    return normalised.reshape(len(homographies), height, width, 2)


def find_labels(heat: np.ndarray, config: LabelConfig) -> np.ndarray:
    """Keypoints `[N, 2]` (x, y) of an averaged score map, best first, on whole pixels."""
    settings = KeypointSettings(
        max_keypoints=config.max_keypoints,
        detection_threshold=config.threshold,
        nms_radius=config.nms_radius,
        subpixel=False,
    )
    return select_keypoints(heat, settings)[0]


class Labels:
    """Keypoints by frame name, in one `.npz`."""

    def __init__(self, by_name: dict[str, np.ndarray], about: dict[str, object]) -> None:
        self.by_name = by_name
        self.about = about

    def __len__(self) -> int:
        return len(self.by_name)

    @property
    def density(self) -> float:
        """Mean number of labels a frame."""
        return float(np.mean([len(points) for points in self.by_name.values()])) if self.by_name else 0.0

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        path = Path(path)
        lengths = np.array([len(points) for points in self.by_name.values()])
        keypoints = np.concatenate([np.zeros((0, 2), np.float32), *self.by_name.values()]).astype(np.float16)
        partial = path.with_name(path.stem + '.partial.npz')
        np.savez_compressed(
            partial, names=np.array(list(self.by_name)), lengths=lengths, keypoints=keypoints,
            about=np.array(json.dumps(self.about)),
        )  # fmt: skip
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Labels:
        """Read the file.

        Raises:
            ValueError: missing or not written by `save`.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                ends = np.cumsum(file['lengths'])
                parts = np.split(file['keypoints'].astype(np.float32), ends[:-1])
                names = [str(name) for name in file['names']]
                return cls(dict(zip(names, parts, strict=True)), json.loads(str(file['about'])))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"'{path}' is not a labels file: {error}") from error
