"""Pictures in, features and their neighbours out, with buffers that stay and one CUDA graph for each shape of batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from threading import Lock

import numpy as np
import torch

from superpoint_ros.device_path import DevicePath
from superpoint_ros.engines import MapNetwork
from superpoint_ros.features import Features, Neighbours
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.on_device import DeviceFeatures, allowed_pixels
from superpoint_ros.pyramid import shrink_mask

MOST_SESSIONS = 8
"""Shapes and settings for which buffers and a graph are kept."""
_CAPTURING = Lock()  # CUDA captures one graph at a time
_SERIALS = count(1)  # of all sessions, so that no features are taken for those of another detector


class Session:
    """Runs batches of one shape, each beside the batch before: fixed buffers, and on CUDA a graph that fills them.

    Host and device meet twice: pictures go in from pinned memory, and one block of numbers comes back.

    Attributes:
        is_graph: whether it is one CUDA graph; elsewhere, and where capture failed, the same steps run one by one.
    """

    def __init__(self, path: DevicePath, batch: int, dimension: int, *, graph: bool = True) -> None:
        """dimension: of the descriptors; graph: whether CUDA may make one of the steps."""
        parameter = next(path.maps.parameters())
        device, count = parameter.device, path.settings.max_keypoints
        pinned = device.type == 'cuda'
        self._path, self._device = path, device
        self._staging = torch.zeros(batch, *path.shapes[0], dtype=torch.uint8, pin_memory=pinned)
        with_keypoints = path.shapes[: path.settings.levels]
        self._staged_masks = [
            torch.zeros(batch, *level, dtype=torch.bool, pin_memory=pinned) for level in with_keypoints
        ]
        self._answer = torch.zeros(batch, count * (7 + dimension), pin_memory=pinned)
        self._images = torch.zeros_like(self._staging, device=device)
        self._allowed = [torch.zeros_like(staged, device=device) for staged in self._staged_masks]
        self._earlier = DeviceFeatures(
            torch.zeros(batch, count, 2, device=device),
            torch.zeros(batch, count, device=device),
            torch.zeros(batch, count, dimension, device=device, dtype=parameter.dtype),
            torch.zeros(batch, count, device=device, dtype=torch.int64),
        )
        self._masks: list[np.ndarray | None] = []
        self._set_masks([None] * batch)
        self._graph = self._capture() if pinned and graph else None

    @property
    def is_graph(self) -> bool:
        return self._graph is not None

    def run(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> np.ndarray:
        """Images [H, W] uint8 and their masks, as many as the batch has.

        Returns:
            [B, K * (7 + D)] float32: of each image the keypoints [K, 2], then scores, levels, partners, similarities
            and seconds, [K] each, then the descriptors [K, D]; what has a score of 0 means nothing. It is valid until
            the next run.
        """
        for row, image in enumerate(images):
            self._staging[row].numpy()[...] = image
        self._set_masks(masks)
        with torch.inference_mode():
            if self._graph is not None:
                self._graph.replay()
            else:
                self._step()
            if self._device.type == 'cuda':
                torch.cuda.current_stream(self._device).synchronize()
        return self._answer.numpy()

    def _set_masks(self, masks: Sequence[np.ndarray | None]) -> None:
        """Bring them to the device unless they are those of last time, as a robot's always are."""
        if len(self._masks) == len(masks) and all(map(_same, self._masks, masks)):
            return
        border, per_octave = self._path.settings.border, self._path.settings.levels_per_octave
        for level, (staged, allowed) in enumerate(zip(self._staged_masks, self._allowed, strict=True)):
            shape = self._path.shapes[level]
            for row, mask in enumerate(masks):
                staged[row].numpy()[...] = allowed_pixels(shape, border, shrink_mask(mask, level, per_octave))
            allowed.copy_(staged)
        self._masks = [None if mask is None else mask.copy() for mask in masks]

    def _step(self) -> None:
        self._images.copy_(self._staging, non_blocking=True)
        features, neighbours = self._path(self._images, self._allowed, self._earlier)
        for held, new in zip(self._earlier, features, strict=True):
            held.copy_(new)
        answer = features.keypoints, features.scores, features.levels, *neighbours, features.descriptors
        self._answer.copy_(torch.cat([part.flatten(1).float() for part in answer], dim=1), non_blocking=True)

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """None where the driver, or an operation, does not allow it."""
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            # The outer `stream` gives back the one before, which a capture that fails may not.
            with _CAPTURING, torch.inference_mode(), torch.cuda.device(self._device), torch.cuda.stream(stream):
                for _ in range(3):  # algorithms are chosen, memory is taken
                    self._step()
                graph = torch.cuda.CUDAGraph()
                # While weights are reloaded another thread goes on using the device, which must not spoil the graph.
                with _own_workspaces(), torch.cuda.graph(graph, stream=stream, capture_error_mode='thread_local'):
                    self._step()
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)  # raises if it is the device that failed
            warnings.warn(f'no CUDA graph, so every step is started by itself: {error}', stacklevel=2)
            return None
        finally:
            torch.cuda.current_stream(self._device).wait_stream(stream)
            for tensor in self._earlier:  # what warmed up is nobody's neighbour
                tensor.zero_()
        return graph


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """Within it a graph takes memory of its own for cuBLAS to compute in, as torch's compiler has it.

    Otherwise that is each stream's, which another graph's end, or a thread's, may free while this one goes on using it.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


def _same(old: np.ndarray | None, new: np.ndarray | None) -> bool:
    if old is None or new is None:
        return old is new
    return np.array_equal(old, new)


def _features(answer: np.ndarray, count: int, serial: int, among: int) -> Features:
    """Views of what `Session.run` says of an image."""
    scores, levels, partner, similarity, second = answer[2 * count : 7 * count].reshape(5, count)
    known = int(np.count_nonzero(scores))
    neighbours = Neighbours(among, partner[:known].astype(np.int32), similarity[:known], second[:known])
    keypoints, descriptors = answer[: 2 * known].reshape(known, 2), answer[7 * count :].reshape(count, -1)[:known]
    return Features(keypoints, scores[:known], descriptors, levels[:known].astype(np.uint8), serial, neighbours)


class Sessions:
    """Finds features by sessions, one for each shape of batch and each setting that comes."""

    def __init__(self, maps: MapNetwork, dimension: int, *, graphs: bool = True) -> None:
        """maps: on their device; dimension: of their descriptors; graphs: see `Session`."""
        self._maps = maps
        self._dimension = dimension
        self._graphs = graphs
        self._sessions: dict[tuple[int, tuple[int, ...], KeypointSettings], tuple[Session, list[int]]] = {}

    def find(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None], settings: KeypointSettings
    ) -> list[Features]:
        """Features of [H, W] uint8 images; those of one size run as one batch.

        The image at the same place of the last batch of that shape is the earlier one of each.
        """
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(number)
        found: dict[int, Features] = {}
        for shape, numbers in by_shape.items():
            session, earlier = self._session(len(numbers), shape, settings)
            answers = session.run([images[number] for number in numbers], [masks[number] for number in numbers])
            for place, (number, answer) in enumerate(zip(numbers, answers, strict=True)):
                serial, among = next(_SERIALS), earlier[place]
                earlier[place] = serial
                found[number] = _features(answer.copy(), settings.max_keypoints, serial, among)
        return [found[number] for number in range(len(images))]

    def _session(self, batch: int, shape: tuple[int, ...], settings: KeypointSettings) -> tuple[Session, list[int]]:
        key = batch, shape, settings
        if key in self._sessions:
            self._sessions[key] = self._sessions.pop(key)  # the one not used for longest comes first
            return self._sessions[key]
        if len(self._sessions) == MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        path = DevicePath(self._maps, settings, (shape[0], shape[1]))
        self._sessions[key] = Session(path, batch, self._dimension, graph=self._graphs), [0] * batch
        return self._sessions[key]
