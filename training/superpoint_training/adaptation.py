"""Homographic adaptation (SuperPoint, section 5): a detector averaged over random views of a frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from superpoint_ros.keypoints import KeypointSettings, select_keypoints
from superpoint_ros.levels import pad
from superpoint_ros.networks import STRIDE, CellNetwork, score_map
from superpoint_training.failures import first_line, halved, out_of_memory
from superpoint_training.homographies import HomographyConfig, rescaling, sample_homography

BEHIND = 1e-6
"""Smallest third coordinate of a mapped pixel that still lies in front of the view."""
AROUND_PEAK = 2
"""Pixels to either side of an averaged map's peak that belong to its keypoint."""


@dataclass(frozen=True)
class LabelConfig:
    """How frames are labelled.

    Attributes:
        views: N_h, the identity included.
        homographies: what the other views look like.
        scales: sizes, relative to the frame's, at which every view is looked at; an average over them weighs each
            by its scale, since higher resolutions place corners better.
        erosion: pixels taken off each view's border, where the picture's own edge looks like a corner.
        min_views: a pixel needs so many views to be judged.
        threshold: smallest averaged probability at a label's peak; a label's own is the sum of what is around that.
        nms_radius: pixels.
        max_keypoints: labels a frame.
        at_once: views that go through the network at once; halved, with a message, where memory does not suffice.
    """

    views: int = 100
    homographies: HomographyConfig = field(default_factory=HomographyConfig)
    scales: tuple[float, ...] = (1.0,)
    erosion: int = 3
    min_views: int = 2
    threshold: float = 0.015
    nms_radius: int = 4
    max_keypoints: int = 600
    at_once: int = 32

    def __post_init__(self) -> None:
        if min(self.views, self.min_views, self.at_once) < 1:
            raise ValueError('views, min_views and at_once must be at least 1')
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f'scales must be positive numbers, got {self.scales}')
        if not 0 <= self.threshold < 1:
            raise ValueError(f'threshold is a probability, at least 0 and less than 1, got {self.threshold}')


class Adaptation:
    """A detector averaged over views.

    A frame's views go through the network in groups that depend on the frame alone, so that its scores do not depend
    on which other frames are labelled, nor by how many processes.

    Args:
        network: gives logits as `SuperPoint` or `GoodPoint` does; on `device`.
        config: views and scales.
        device: where to compute.

    Raises:
        ValueError: the network has a keypoint in every cell instead.
    """

    def __init__(self, network: nn.Module, config: LabelConfig, device: torch.device) -> None:
        if isinstance(network, CellNetwork):
            raise ValueError(
                f'labels are averages of a score map, which {network.architecture} does not have: take weights of '
                'superpoint or goodpoint'
            )
        self._network, self.config, self._device = network, config, device
        self._at_once = config.at_once

    def scores(self, frame: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The averaged keypoint probability of every pixel of a frame.

        Each view's probabilities are warped back and summed; the sum is divided by the number of views that saw the
        pixel, borders of `erosion` pixels not counted. The first view is the frame itself, borders and all.

        Args:
            frame: `[H, W]` uint8.
            rng: of the views.

        Returns:
            `[H, W]` float32, 0 where fewer than `min_views` views saw the pixel.

        Raises:
            TrainingError: memory does not even suffice for one view.
        """
        config = self.config
        if not frame.size:
            return np.zeros(frame.shape, np.float32)
        whole = pad(frame, STRIDE)
        height, width = whole.shape
        drawn = [sample_homography(rng, height, width, config.homographies) for _ in range(config.views - 1)]
        homographies = np.stack([np.eye(3), *drawn])
        total = torch.zeros((height, width), device=self._device)
        count = torch.zeros((height, width), device=self._device)
        for scale in config.scales:
            summed, seen = self._at_scale(whole, homographies, scale)
            total += summed * scale
            count += seen * scale
        enough = count > (min(config.min_views, config.views) - 0.01) * sum(config.scales)
        scores = torch.where(enough, total / count.clamp(min=1e-9), 0).cpu().numpy()
        return scores[: frame.shape[0], : frame.shape[1]]

    def _at_scale(self, frame: np.ndarray, homographies: np.ndarray, scale: float) -> tuple[Tensor, Tensor]:
        """Sum over views of the probabilities `[H, W]` in the frame's pixels, and the number of views that saw each."""
        rows, columns = (max(1, round(n * scale / STRIDE)) * STRIDE for n in frame.shape)
        resized = cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        picture = torch.from_numpy(np.ascontiguousarray(resized)).to(self._device)[None, None].float() / 255
        resize = rescaling(columns / frame.shape[1], rows / frame.shape[0])
        while True:
            try:
                summed = torch.zeros(frame.shape, device=self._device)
                seen = torch.zeros(frame.shape, device=self._device)
                for first in range(0, len(homographies), self._at_once):
                    group = homographies[first : first + self._at_once]
                    probabilities = self._look(picture, resize @ group @ np.linalg.inv(resize))
                    back, shown = self._bring_back(probabilities, resize @ group, frame.shape, first == 0)
                    summed += back
                    seen += shown
                return summed, seen
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                message = first_line(error)
            self._at_once = halved(min(self._at_once, len(homographies)), 'views', message)

    @torch.inference_mode()
    def _look(self, picture: Tensor, homographies: np.ndarray) -> Tensor:
        """`[V, H, W]` probabilities in the pixels of views of a picture `[1, 1, H, W]`."""
        height, width = picture.shape[-2:]
        grid, _ = self._positions(np.linalg.inv(homographies), (height, width), (height, width))
        views = grid_sample(picture.expand(len(grid), -1, -1, -1), grid, align_corners=False)
        with torch.autocast(self._device.type, torch.bfloat16):
            logits = self._network(views.contiguous(memory_format=torch.channels_last))[0]
        return score_map(logits)

    @torch.inference_mode()
    def _bring_back(
        self, probabilities: Tensor, homographies: np.ndarray, shape: tuple[int, ...], with_identity: bool
    ) -> tuple[Tensor, Tensor]:
        """Sum `[H, W]` of views' probabilities sampled at a frame's pixels, and how many views count there."""
        height, width = shape
        view_height, view_width = probabilities.shape[-2:]
        grid, depth = self._positions(homographies, (height, width), (view_height, view_width))
        margin = self.config.erosion + 0.5
        inner = torch.tensor([1 - 2 * margin / view_width, 1 - 2 * margin / view_height], device=self._device)
        counts = (grid.abs() <= inner + 1e-6).all(dim=-1) & (depth > BEHIND)
        counts &= self._inside_frame(homographies, height, width, depth, margin)
        if with_identity:
            counts[0] = True
        sampled = grid_sample(probabilities[:, None], grid, align_corners=False)[:, 0]
        return torch.where(counts, sampled, 0).sum(dim=0), counts.sum(dim=0)

    def _inside_frame(self, homographies: np.ndarray, height: int, width: int, depth: Tensor, margin: float) -> Tensor:
        """`[V, H, W]` bool: which pixels of the frame lie at least `margin` pixels, in the view, within its edges.

        The edge with line l in the frame has the line l' = H^-T l in the view, and the pixel p, at depth w there,
        has the distance l.p / (w |l'|) from it.
        """
        x, y = np.arange(width), np.arange(height)
        edges = np.array([[1, 0, 0.5], [-1, 0, width - 0.5], [0, 1, 0.5], [0, -1, height - 0.5]])
        lines = np.linalg.inv(homographies).transpose(0, 2, 1) @ edges.T
        left, right, top, bottom = margin * np.hypot(lines[:, 0], lines[:, 1]).T[:, :, None]
        deepest_x = np.minimum((x + 0.5) / left, (width - 0.5 - x) / right)
        deepest_y = np.minimum((y + 0.5) / top, (height - 0.5 - y) / bottom)
        columns, rows = (torch.from_numpy(d).float().to(self._device) for d in (deepest_x, deepest_y))
        slack = 1 + 1e-5
        return (depth <= columns[:, None, :] * slack) & (depth <= rows[:, :, None] * slack)

    def _positions(
        self, homographies: np.ndarray, shape: tuple[int, int], target: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Where homographies take the pixels of `shape`: `[V, H, W, 2]`, normalised to a picture of shape `target`.

        Also the third coordinate `[V, H, W]`, the depth. Pixels at or behind the horizon are sent far outside.
        """
        height, width = target
        normalise = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
        matrices = torch.from_numpy(normalise @ homographies).float().to(self._device)
        y = torch.arange(shape[0], device=self._device, dtype=torch.float32)[:, None]
        x = torch.arange(shape[1], device=self._device, dtype=torch.float32)
        x_part, y_part, constant = (matrices[..., axis, None, None] for axis in range(3))
        across, down, depth = (x_part * x + (y_part * y + constant)).unbind(dim=1)
        reciprocal = torch.where(depth > BEHIND, 1 / depth, torch.inf)
        grid = torch.stack([across * reciprocal, down * reciprocal], dim=-1)
        return grid.nan_to_num(4.0).clamp(-4, 4), depth


def find_labels(scores: np.ndarray, config: LabelConfig) -> np.ndarray:
    """Keypoints `[N, 3]` float32 (x, y, probability) of an averaged score map `[H, W]`, best first.

    Views do not agree on the pixel, so a keypoint's probability is the sum of what is around its peak, at most 1, and
    its place is the centre of that.
    """
    if not scores.size:
        return np.zeros((0, 3), np.float32)
    settings = KeypointSettings(
        max_keypoints=config.max_keypoints,
        detection_threshold=config.threshold,
        nms_radius=config.nms_radius,
        subpixel=False,
    )
    peaks = select_keypoints(scores, settings)[0]
    offsets = np.arange(-AROUND_PEAK, AROUND_PEAK + 1)
    columns, rows = peaks.astype(np.intp).T[:, :, None, None] + AROUND_PEAK
    around = np.pad(scores, AROUND_PEAK)[rows + offsets[:, None], columns + offsets]
    probability = around.sum(axis=(1, 2))
    x = (around.sum(axis=1) * offsets).sum(axis=1)
    y = (around.sum(axis=2) * offsets).sum(axis=1)
    centres = peaks + np.stack([x, y], axis=1) / probability[:, None]
    return np.column_stack([centres, probability.clip(max=1)]).astype(np.float32)
