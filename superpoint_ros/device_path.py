"""The whole way from pictures to features and their neighbours, as steps on one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from superpoint_ros.engines import MapNetwork
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.levels import padding
from superpoint_ros.networks import STRIDE, CellNetwork
from superpoint_ros.on_device import (
    Beside,
    Candidates,
    DescriptorMaps,
    DeviceFeatures,
    DeviceNeighbours,
    ScoreMaps,
    cell_candidates,
    nearest_neighbours,
    pixel_candidates,
    precedence,
)
from superpoint_ros.pyramid import area_weights, covering_pixels, level_shape

Result = TypeVar('Result')


class DeviceMaps(NamedTuple):
    """What `engines.Maps` holds, of a batch."""

    scores: Tensor
    """[B, H, W] float32, without padding; or [B, h, w] of cells."""
    descriptors: Tensor
    """[B, H / s, W / s, D]."""
    offsets: Tensor | None
    """[B, h, w, 2] float32 of a network with a keypoint in every cell."""


class DevicePath(nn.Module):
    """From bytes to features and their neighbours among those of the images before, without a look from the host."""

    def __init__(self, maps: MapNetwork, settings: KeypointSettings, shape: tuple[int, int]) -> None:
        """maps: on their device; shape: (height, width) of the images."""
        super().__init__()
        self.maps = maps
        self.settings = settings
        per_octave = settings.levels_per_octave
        self.shapes = [level_shape(shape, level, per_octave) for level in range(settings.sizes)]
        """Of all sizes of an image that are looked at."""
        device = next(maps.parameters()).device
        self._side_by_side = _SideBySide(device, settings.sizes)
        self._weights = [
            [torch.from_numpy(area_weights(count, onto)).to(device) for count, onto in zip(shape, level, strict=True)]
            for level in self.shapes[1:]
        ]
        self._factors = torch.tensor([(shape[1] / w, shape[0] / h) for h, w in self.shapes], device=device)

        padded = [(h + bottom, w + right) for h, w in self.shapes for bottom, right in [padding((h, w), STRIDE)]]
        of_cells, stride = isinstance(maps.network, CellNetwork), maps.network.descriptor_stride
        of_scores = [(h // STRIDE, w // STRIDE) for h, w in padded] if of_cells else self.shapes
        self._scores = ScoreMaps(of_scores[: settings.levels], device)
        self._first = [precedence(level, device) for level in self.shapes[: settings.levels] if not of_cells]
        self._descriptors = DescriptorMaps(
            [(h // stride, w // stride) for h, w in padded],
            [(w / shape[1] / stride, h / shape[0] / stride) for h, w in self.shapes],
            per_octave,
            device,
        )
        self._covering = {
            (number, other): [
                torch.from_numpy(covering_pixels(*sides)).to(device)
                for sides in zip(self.shapes[number], self.shapes[other], strict=True)
            ]
            for number in range(settings.levels)
            for other in (number - 1, number + 1)
            if 0 <= other < settings.sizes and not of_cells
        }
        """Of a level and one beside it: the rows and the columns of that one that the level's own lie in."""

    def forward(
        self, images: Tensor, allowed: Sequence[Tensor], earlier: DeviceFeatures
    ) -> tuple[DeviceFeatures, DeviceNeighbours]:
        """Images [B, H, W] uint8; allowed: of each level [B, h, w] bool, where keypoints may be; earlier: B images'."""
        grey = images.float() if len(self.shapes) > 1 else images
        levels = self._side_by_side(
            [partial(self._maps, level, grey if level else images) for level in range(len(self.shapes))]
        )
        keypoints, scores, numbers = self._keypoints(levels, allowed)
        descriptors = self._descriptors.describe([level.descriptors for level in levels], keypoints, numbers)
        features = DeviceFeatures(keypoints, scores, descriptors, numbers)
        return features, nearest_neighbours(features, earlier, of_one_level=self.settings.levels == 1)

    def _maps(self, level: int, images: Tensor) -> DeviceMaps:
        """What the network says about images [B, H, W], floats unless of the first, at one of their levels."""
        if level:
            down, across = self._weights[level - 1]
            images = (down @ images @ across.T + 0.5).floor()  # OpenCV rounds halves up where it halves
        height, width = images.shape[1:]
        # The last row and column again, up to whole cells: padding that makes no edge.
        bottom, right = padding((height, width), STRIDE)
        whole = images[:, None]
        if bottom or right:
            whole = pad(whole.float(), (0, right, 0, bottom), mode='replicate')
        scores, descriptors, *offsets = self.maps(whole)
        if offsets:
            return DeviceMaps(scores, descriptors, offsets[0])
        # Cropped before suppression, so that nothing in the padding competes with the image.
        return DeviceMaps(scores[:, :height, :width], descriptors, None)

    def _keypoints(self, levels: Sequence[DeviceMaps], allowed: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The best of all levels, [B, K, 2] in pixels of the image, their scores [B, K] and levels [B, K]."""
        choose = self._pixels if levels[0].offsets is None else self._cells
        keypoints, scores, numbers = choose(levels, allowed)
        if len(allowed) > 1:
            keypoints = (keypoints + 0.5) * self._factors[numbers] - 0.5
        return keypoints, scores, numbers

    def _pixels(self, levels: Sequence[DeviceMaps], allowed: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of score maps the best pixels, as of `_keypoints`, but in pixels of their levels."""
        maps = [level.scores for level in levels]
        candidates = self._side_by_side(
            [partial(self._candidates, number, maps, where) for number, where in enumerate(allowed)]
        )
        best, subpixel = self.settings.max_keypoints, self.settings.subpixel
        return self._scores.keypoints(candidates, maps[: len(allowed)], best, subpixel=subpixel)

    def _cells(self, levels: Sequence[DeviceMaps], allowed: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of a network with a keypoint in every cell the best cells, as of `_pixels`."""
        found = [
            cell_candidates(level.scores, level.offsets, where, self.settings)
            for level, where in zip(levels, allowed, strict=False)
            if level.offsets is not None
        ]
        chosen = self._scores.choose([candidates for candidates, _ in found], self.settings.max_keypoints)
        positions = torch.cat([positions for _, positions in found], dim=1)
        keypoints = positions.gather(1, chosen.places[..., None].expand(-1, -1, 2))
        return keypoints, chosen.scores, chosen.maps

    def _candidates(self, number: int, maps: Sequence[Tensor], allowed: Tensor) -> Candidates:
        beside = [Beside(maps[other], *where) for (own, other), where in self._covering.items() if own == number]
        return pixel_candidates(maps[number], allowed, self._first[number], self.settings, beside)


class _SideBySide:
    """Runs jobs that do not need one another; in a CUDA graph, whose device small images leave idle, all at once."""

    def __init__(self, device: torch.device, most: int) -> None:
        """most: jobs at once."""
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(most - 1)] if device.type == 'cuda' else []

    def __call__(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """Their results, in order. What they use must be held until all are done."""
        # Outside of a graph it is the host that takes longest, and memory would have to be kept for each stream.
        if not self._streams or not torch.cuda.is_current_stream_capturing():
            return [job() for job in jobs]
        here = torch.cuda.current_stream(self._device)
        others = self._streams[: len(jobs) - 1]
        for stream in others:
            stream.wait_stream(here)
        results = []
        for stream, job in zip([here, *others], jobs, strict=True):
            with torch.cuda.stream(stream):
                results.append(job())
        for stream in others:
            here.wait_stream(stream)
        return results
