"""How a network is executed: by torch on a CPU or a CUDA device, or by OpenVINO on a CPU.

Every engine makes the same maps of a grey image, so that what follows is written and tested once.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import nn

from superpoint_ros import triton_runtime
from superpoint_ros.errors import first_line
from superpoint_ros.networks import CellNetwork, KeypointNetwork, fuse, score_map, takes_bytes
from superpoint_ros.openvino_runtime import compile_for_cpu, has_bfloat16, openvino
from superpoint_ros.photographs import photographs
from superpoint_ros.processor import multiplies_int8

if openvino is not None:
    from superpoint_ros.quantisation import quantise

MOST_SIZES = 48
"""Image sizes for which a compiled graph is kept: those of four cameras of different resolutions at the most levels."""
MOST_PIXELS = 40_000_000
"""Of these sizes together, for each of which the largest network takes about 65 bytes; those of the images at hand are
kept however large they are. Two 4K cameras of different sizes have 34 million in the six sizes of four levels."""

MOST_FUSED_ERROR = 0.02
"""Of the maps in half precision, relative; both ways round differently."""

ENGINES = ('auto', 'torch', 'openvino')
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16', 'int8')


class EngineError(RuntimeError):
    """The network cannot run where it was asked to, or no longer can: no such device, out of memory."""


class Maps(NamedTuple):
    """What the network says about one image; the arrays are valid until the engine is asked for maps again."""

    scores: np.ndarray
    """[H, W] float32, probability that the pixel is a keypoint; of a network with one in every cell [H / 8, W / 8]."""
    descriptors: np.ndarray
    """[H / s, W / s, D] float32 or float16, not normalised; s is 8, or less for networks with a finer map."""
    offsets: np.ndarray | None = None
    """Of a network with a keypoint in every cell: [H / 8, W / 8, 2] (x, y) float32, pixels from the cell's centre."""


class Engine(Protocol):
    """Executes one network. Not for use by several threads at once."""

    description: str
    """Engine, precision and device, for people."""
    device: torch.device
    batches: bool
    """Whether images of one size that follow one another run at once, in less time than one by one."""

    def maps(self, images: Sequence[np.ndarray]) -> Iterator[Maps]:
        """Run [H, W] uint8 images, whose sides are multiples of the network's stride; see `levels.pad`, too.

        Raises EngineError.
        """


def load_engine(
    network: KeypointNetwork, engine: str = 'auto', device: str = 'auto', precision: str = 'auto'
) -> Engine:
    """Prepare a network for execution.

    engine: 'torch', 'openvino' (CPU only), or 'auto': OpenVINO on a CPU where it is installed, else torch.
    device: 'cpu', 'cuda', 'cuda:1', ..., or 'auto': the first CUDA device where there is one, else the CPU.
    precision: 'float32', 'bfloat16', 'float16' (CUDA only), 'int8' (OpenVINO only), or 'auto': float16 on
    CUDA; with OpenVINO int8 or bfloat16 where the CPU has instructions for it; else float32. Networks with leaky
    ReLUs do not run on int8: 'auto' passes it over for them.
    Raises EngineError for a device or an engine that this machine lacks, ValueError for what none supports.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine must be one of {", ".join(ENGINES)}, not {engine!r}')
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be one of {", ".join(PRECISIONS)}, not {precision!r}')
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() and engine != 'openvino' else 'cpu'
    torch_device = _find_device(device)
    if torch_device.type == 'cpu' and precision == 'float16':
        raise ValueError('precision float16 needs a CUDA device; a CPU runs float32 or bfloat16')
    if engine == 'openvino' and torch_device.type != 'cpu':
        raise ValueError(f'engine openvino runs on the CPU only, not on {device}; use engine torch there')
    if engine == 'openvino' and openvino is None:
        raise EngineError(
            'engine openvino was asked for but is not installed; pip install openvino, or use engine torch'
        )
    if openvino is not None and engine != 'torch' and torch_device.type == 'cpu':
        return OpenVINOEngine(network, precision)
    if precision == 'int8':
        raise ValueError('precision int8 needs engine openvino, on the CPU')
    return TorchEngine(network, torch_device, precision)


def _find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<number>', not {name!r}") from error
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<number>', not {name!r}")
    if device.type == 'cuda':
        if not torch.cuda.is_available():
            build = 'sees no NVIDIA GPU' if torch.version.cuda else 'is built without CUDA'
            raise EngineError(f'device {name} was asked for but torch {torch.__version__} {build}; use device cpu')
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise EngineError(f'device {name} was asked for but this machine has {count} CUDA device(s), from cuda:0')
    return device


class MapNetwork(nn.Module):
    """From bytes to maps: [B, 1, H, W] uint8 to what `Maps` holds of each image, in its order.

    The softmax is in float32 whatever the network's type: in half precision neighbouring pixels would tie.
    """

    def __init__(self, network: KeypointNetwork, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(dtype)
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.network(self._grey_levels(images))
        if isinstance(self.network, CellNetwork):
            scores, offsets, descriptors = outputs
            return scores, descriptors.permute(0, 2, 3, 1), offsets
        logits, descriptors = outputs
        return self._score_map(logits), descriptors.permute(0, 2, 3, 1)

    def _score_map(self, logits: torch.Tensor) -> torch.Tensor:
        return score_map(logits)

    def _grey_levels(self, images: torch.Tensor) -> torch.Tensor:
        """As the network wants them."""
        return images.to(self.dtype) / 255


class FusedMapNetwork(MapNetwork):
    """The same in half precision in fewer steps, see `networks.fused`; quick on CUDA devices alone."""

    def __init__(self, network: KeypointNetwork, dtype: torch.dtype = torch.float16) -> None:
        super().__init__(fuse(network), dtype)

    def _score_map(self, logits: torch.Tensor) -> torch.Tensor:
        kernels = triton_runtime.kernels_for(logits.device)
        return kernels.score_map(logits) if kernels else score_map(logits)

    def _grey_levels(self, images: torch.Tensor) -> torch.Tensor:
        return images if takes_bytes(self.network) else images.to(self.dtype)


class TorchEngine:
    """Eager torch, channels last. Images of one size that follow one another run as one batch."""

    batches = True

    def __init__(self, network: KeypointNetwork, device: torch.device, precision: str = 'auto') -> None:
        if precision == 'auto':
            precision = 'float16' if device.type == 'cuda' else 'float32'
        self.device = device
        self.description = f'torch {precision} on {device}'
        dtype = getattr(torch, precision)
        with engine_errors(self.description):
            self.network = _on_device(MapNetwork(network, dtype), device)
            if device.type == 'cuda' and dtype == torch.float16 and torch.version.cuda:
                self.network = fused_or(self.network, _on_device(FusedMapNetwork(network, dtype), device))

    def maps(self, images: Sequence[np.ndarray]) -> Iterator[Maps]:
        for _, batch in groupby(images, key=np.shape):
            stacked = torch.from_numpy(np.stack(list(batch)))[:, None]
            with engine_errors(self.description), torch.inference_mode():
                scores, descriptors, *offsets = self.network(stacked.to(self.device))
                if descriptors.dtype == torch.bfloat16:  # NumPy has no such type
                    descriptors = descriptors.float()
                arrays = [tensor.cpu().numpy() for tensor in (scores, descriptors, *offsets)]
            yield from map(Maps, *arrays)


def _on_device(maps: MapNetwork, device: torch.device) -> MapNetwork:
    return maps.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fused_or(plain: MapNetwork, fused: MapNetwork) -> MapNetwork:
    """The fused network, unless its maps of a picture are others: cuDNN and Triton may lack a step for a device."""
    device = next(plain.parameters()).device
    picture = torch.arange(480 * 640, device=device).reshape(1, 1, 480, 640).remainder(251).byte()
    try:
        with torch.inference_mode():
            expected = plain(picture)
            torch.full((1 << 25,), torch.nan, device=device)  # what a step does not write, or should not read, shows
            pairs = zip(fused(picture), expected, strict=True)
            errors = [float((map_ - right).norm() / right.norm()) for map_, right in pairs]
        if all(error < MOST_FUSED_ERROR for error in errors):
            return fused
        reason = f'maps are off by {", ".join(f"{error:.1%}" for error in errors)}'
    except Exception as error:  # of cuDNN, or of Triton, whose have no kind in common
        reason = first_line(error)
    warnings.warn(f'the network does not run in fewer steps here, so that it takes longer: {reason}', stacklevel=2)
    return plain


class OpenVINOEngine:
    """A graph that OpenVINO compiles for the CPU, once for each image size. Images run one by one."""

    device = torch.device('cpu')
    batches = False

    def __init__(self, network: KeypointNetwork, precision: str = 'auto') -> None:
        with engine_errors(f'openvino {precision} on cpu'):
            leaky = any(isinstance(module, nn.LeakyReLU) for module in network.modules())
            if precision == 'auto':
                int8 = multiplies_int8() and not leaky
                precision = 'int8' if int8 else 'bfloat16' if has_bfloat16() else 'float32'
            elif precision == 'int8' and leaky:
                raise ValueError('precision int8 is for networks of plain ReLUs, this one has leaky ones; take auto')
            self.description = f'openvino {precision} on cpu'
            self.requests: dict[tuple[int, ...], openvino.InferRequest] = {}
            self._precision = precision
            self._network = MapNetwork(network).eval()
            # OpenVINO keeps what follows the last convolution, here the softmax, in float32 nevertheless.
            self._bfloat16 = precision == 'bfloat16' or (precision == 'int8' and has_bfloat16())

    @cached_property
    def graph(self) -> openvino.Model:
        """For images of any size; made when the first image comes, which takes a second or two for int8."""
        graph = self._convert(self._network)
        if self._precision == 'int8':
            quantise(graph, _calibration_pictures())
        return graph

    @staticmethod
    def _convert(network: MapNetwork) -> openvino.Model:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)  # OpenVINO still traces by torch.jit
            return openvino.convert_model(
                network,
                example_input=torch.zeros(1, 1, 64, 96, dtype=torch.uint8),
                input=openvino.PartialShape([1, 1, -1, -1]),
            )

    def maps(self, images: Sequence[np.ndarray]) -> Iterator[Maps]:
        to_come = Counter(image.shape for image in images)
        for image in images:
            to_come[image.shape] -= 1
            with engine_errors(self.description):
                request = self._request(image.shape, needed=to_come)
                request.infer([image[None, None]])
                outputs = [tensor.data[0] for tensor in request.output_tensors]
            # A request answers into the same memory each time.
            yield Maps(*[output.copy() for output in outputs] if to_come[image.shape] else outputs)

    def _request(self, shape: tuple[int, ...], needed: Container[tuple[int, ...]]) -> openvino.InferRequest:
        """For images of one size: a fixed shape takes a tenth of the time off a small network; compiling, 0.1 s.

        needed: sizes of the images at hand, which are kept.
        """
        if shape in self.requests:
            self.requests[shape] = self.requests.pop(shape)  # the one not used for longest comes first
            return self.requests[shape]
        for spare in [kept for kept in self.requests if kept not in needed]:
            if self._has_room_for(shape):
                break
            del self.requests[spare]
        graph = self.graph.clone()
        graph.reshape([1, 1, *shape])
        self.requests[shape] = compile_for_cpu(graph, bfloat16=self._bfloat16).create_infer_request()
        return self.requests[shape]

    def _has_room_for(self, shape: tuple[int, ...]) -> bool:
        pixels = sum(height * width for height, width in (*self.requests, shape))
        return len(self.requests) < MOST_SIZES and pixels <= MOST_PIXELS


def _calibration_pictures() -> list[np.ndarray]:
    """Photographs that the package ships, 640 x 480."""
    pictures = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in photographs())
    return [cv2.resize(picture, (640, 480)).astype(np.uint8) for picture in pictures if picture is not None]


@contextmanager
def engine_errors(description: str) -> Iterator[None]:
    """Make EngineError of RuntimeError, which torch and OpenVINO raise for all that befalls a device."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f'{description}: {first_line(error)}') from error
