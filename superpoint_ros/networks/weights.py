"""Networks to and from safetensors files that say what they hold."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from superpoint_ros.files import write_whole
from superpoint_ros.networks.family import KeypointNetwork
from superpoint_ros.networks.goodpoint import GoodPoint, GoodPointConfig
from superpoint_ros.networks.kp2d import KP2D, KP2DConfig
from superpoint_ros.networks.layers import fold_batch_norm
from superpoint_ros.networks.superpoint import SuperPoint, SuperPointConfig
from superpoint_ros.networks.unsuperpoint import UnsuperPoint, UnsuperPointConfig

WEIGHTS_DIRECTORY = Path(__file__).resolve().parent.parent / 'weights'

ARCHITECTURES: dict[str, tuple[Callable[[Any], KeypointNetwork], type]] = {
    SuperPoint.architecture: (SuperPoint, SuperPointConfig),
    GoodPoint.architecture: (GoodPoint, GoodPointConfig),
    UnsuperPoint.architecture: (UnsuperPoint, UnsuperPointConfig),
    KP2D.architecture: (KP2D, KP2DConfig),
}
"""Network and config class by the name under which a weights file asks for them."""


class WeightsError(ValueError):
    """A weights file is missing, damaged, or not one of ours; the message says which and what to do."""


def shipped_weights() -> list[str]:
    """Names of the weights that come with the package, for use in place of a path."""
    return sorted(path.stem for path in WEIGHTS_DIRECTORY.glob('*.safetensors'))


def resolve_weights(name_or_path: str | Path) -> Path:
    """The file behind a shipped name or a path.

    Raises:
        WeightsError: neither a shipped name nor an existing file.
    """
    shipped = WEIGHTS_DIRECTORY / f'{name_or_path}.safetensors'
    path = shipped if shipped.is_file() else Path(name_or_path).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"no weights at '{name_or_path}': give the path of a .safetensors file, "
            f'or one of the shipped names: {", ".join(shipped_weights())}'
        )
    return path


def load_network(name_or_path: str | Path, *, fold: bool = True) -> KeypointNetwork:
    """Build the network a weights file describes and load it.

    Args:
        name_or_path: a shipped name, a `.safetensors` file written by `save_network`, or a PyTorch checkpoint
            (`.pth`, `.pt`) in the paper's layout, read with `weights_only=True`.
        fold: merge BatchNorm into the convolutions (inference) or keep it (training goes on).

    Returns:
        The network in eval mode, float32, on the CPU, its `metadata` filled.

    Raises:
        WeightsError: the file is missing, damaged, unsafe or does not fit.
    """
    path = resolve_weights(name_or_path)
    reader = _read_checkpoint if path.suffix in ('.pth', '.pt') else _read_safetensors
    network = reader(path).eval().requires_grad_(False)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise WeightsError(f"the weights in '{path}' contain NaN or infinite values: retrain or restore them")
    return fold_batch_norm(network) if fold else network


def save_network(network: KeypointNetwork, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a network and what is known of it, whole or not at all; see `encode_network`.

    Args:
        path: file to write; replaced only once the new one is on the disk.

    Raises:
        OSError: it could not be written.
    """
    write_whole(Path(path), encode_network(network, metadata))


def encode_network(network: KeypointNetwork, metadata: Mapping[str, str]) -> bytes:
    """The content of a file of a network, in half precision, and of what is known of it.

    Args:
        network: its `config` is stored with it.
        metadata: strings under your own keys (recipe, data, figures); `architecture` and `config` are set here.
    """
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
    }
    described = dict(metadata) | {
        'architecture': network.architecture,
        'config': json.dumps(dataclasses.asdict(network.config)),
    }
    return save(tensors, metadata=described)  # save_file would let nobody but its user read the file


def _read_safetensors(path: Path) -> KeypointNetwork:
    try:
        with safe_open(path, framework='pt') as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"'{path}' is not a readable safetensors file ({error}): it may be cut short, or a pickle under "
            'another name, which is never loaded'
        ) from error
    try:
        network_class, config_class = ARCHITECTURES[metadata.get('architecture', '')]
        fields: dict[str, Any] = json.loads(metadata['config'])
        network = network_class(config_class(**{**fields, 'widths': tuple(fields['widths'])}))
        network.load_state_dict({name: _widened(tensor) for name, tensor in state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"'{path}' does not describe a network this version knows ({', '.join(ARCHITECTURES)}): {_one_line(error)}"
        ) from error
    network.metadata = metadata
    return network


def _read_checkpoint(path: Path) -> SuperPoint:
    """A foreign PyTorch checkpoint in the paper's layout; its widths are read off its tensors."""
    try:
        loaded = torch.load(path, map_location='cpu', weights_only=True)
        state = loaded.get('state_dict', loaded.get('model_state_dict', loaded))
        widths = tuple(len(state[f'conv{level}{letter}.weight']) for level in range(1, 5) for letter in 'ab')
        config = SuperPointConfig(
            widths=widths,
            head_width=len(state['convPa.weight']),
            descriptor_dim=len(state['convDb.weight']),
            norm='none',
        )
        network = SuperPoint(config)
        network.load_paper_layout(state)
    except (
        pickle.UnpicklingError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        EOFError,
        OSError,
    ) as error:
        raise WeightsError(
            f"'{path}' is not a plain checkpoint in SuperPoint's layout (conv1a ... convDb): {_one_line(error)}. "
            'Files that need more than tensors to load are refused.'
        ) from error
    network.metadata = {'architecture': 'superpoint', 'source': path.name}
    return network


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())[:300]


def parameter_count(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())
