"""SuperPoint (DeTone, Malisiewicz, Rabinovich 2018): one encoder, a detector head and a descriptor head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from superpoint_ros.networks.layers import ConvBlock

STRIDE = 8
"""Pixels per cell: the encoder halves the image three times."""

DETECTOR_HEADS = ('plain', 'skip')
NORMS = ('none', 'batch', 'batch_below_full')


@dataclass(frozen=True)
class SuperPointConfig:
    """What shapes a SuperPoint network; kept in the metadata of its weights.

    Attributes:
        widths: channels of the encoder's eight 3x3 convolutions; a 2x2 max-pool follows each pair but the last.
        head_width: channels of the 3x3 convolution that opens each head.
        descriptor_dim: D, the length of a descriptor.
        detector_head: `plain`, the paper's, or `skip`, which adds logits computed from the full-, half- and
            quarter-resolution features. A short training needs `skip`: from stride-8 features alone the
            position inside a cell takes millions of samples to learn.
        norm: `batch` after every convolution (the paper), `none`, or `batch_below_full`: none at full
            resolution, where BatchNorm costs more time than the convolution and is not missed.
        skip_kernel: side of the skips' convolutions; 1 takes a sixth off a small network's time.
    """

    widths: tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128, 128)
    head_width: int = 256
    descriptor_dim: int = 256
    detector_head: str = 'plain'
    norm: str = 'batch'
    skip_kernel: int = 3

    def __post_init__(self) -> None:
        if len(self.widths) != 8 or min(self.widths) < 1:
            raise ValueError(f'widths must be eight positive channel counts, got {self.widths}')
        if self.head_width < 1 or self.descriptor_dim < 1:
            raise ValueError('head_width and descriptor_dim must be positive')
        if self.detector_head not in DETECTOR_HEADS:
            raise ValueError(f'detector_head must be one of {DETECTOR_HEADS}, got {self.detector_head!r}')
        if self.skip_kernel not in (1, 3):
            raise ValueError(f'skip_kernel must be 1 or 3, got {self.skip_kernel}')
        if self.norm not in NORMS:
            raise ValueError(f'norm must be one of {NORMS}, got {self.norm!r}')


class SuperPoint(nn.Module):
    """Image to keypoint logits and a coarse descriptor map (paper section 3).

    Attributes:
        stride: 8, pixels per cell.
        metadata: what is known of the weights (recipe, data, figures); filled by `load_network`.
    """

    stride = STRIDE

    def __init__(self, config: SuperPointConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SuperPointConfig()
        self.metadata: dict[str, str] = {}
        norm = config.norm != 'none'
        channels = (1, *config.widths)
        self.encoder = nn.ModuleList()
        for level in range(4):
            first, second, third = channels[2 * level : 2 * level + 3]
            level_norm = norm and not (config.norm == 'batch_below_full' and level == 0)
            self.encoder.append(
                nn.Sequential(ConvBlock(first, second, norm=level_norm), ConvBlock(second, third, norm=level_norm))
            )
        self.pool = nn.MaxPool2d(2)
        self.detector = _head(channels[-1], config.head_width, STRIDE**2 + 1, norm)
        self.descriptor = _head(channels[-1], config.head_width, config.descriptor_dim, norm)
        self.skips = nn.ModuleList()
        kernel = config.skip_kernel
        if config.detector_head == 'skip':
            for level in range(3):
                self.skips.append(nn.Conv2d(channels[2 * level + 2], 4**level, kernel, padding=kernel // 2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            image: `[B, 1, H, W]` grey in [0, 1]; H and W multiples of 8.

        Returns:
            logits `[B, 65, H/8, W/8]`: one per pixel of the cell in raster order, the last "no keypoint here";
            descriptors `[B, D, H/8, W/8]`, one per cell centre, not normalised.
        """
        features = image
        fine_logits: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            features = block(features if level == 0 else self.pool(features))
            if level < len(self.skips):
                fine_logits.append(pixel_shuffle(self.skips[level](features), 2**level))
        logits = self.detector(features)
        if fine_logits:
            per_pixel = fine_logits[0] + fine_logits[1] + fine_logits[2]
            in_cells = pixel_unshuffle(per_pixel, STRIDE)
            logits = torch.cat([logits[:, :-1] + in_cells, logits[:, -1:]], dim=1)
        return logits, self.descriptor(features)

    def load_paper_layout(self, state: Mapping[str, Tensor]) -> None:
        """Load weights named as in the paper's published layout: `conv1a` to `conv4b`, `convPa/Pb`, `convDa/Db`.

        That layout has no BatchNorm and a plain detector head, and this network must match it.

        Raises:
            RuntimeError: names or shapes differ.
        """
        names = {f'encoder.{k // 2}.{k % 2}.0': f'conv{k // 2 + 1}{"ab"[k % 2]}' for k in range(8)}
        names |= {f'{head}.{part}': f'conv{letter}{"ab"[index]}'
                  for head, letter in (('detector', 'P'), ('descriptor', 'D'))
                  for index, part in enumerate(('0.0', '1'))}  # fmt: skip
        renamed = {
            f'{ours}.{kind}': state[f'{theirs}.{kind}']
            for ours, theirs in names.items()
            for kind in ('weight', 'bias')
            if f'{theirs}.{kind}' in state
        }
        self.load_state_dict(renamed)


def _head(in_channels: int, width: int, out_channels: int, norm: bool) -> nn.Sequential:
    return nn.Sequential(ConvBlock(in_channels, width, norm=norm), nn.Conv2d(width, out_channels, 1))


def score_map(logits: Tensor) -> Tensor:
    """Keypoint probability of every pixel: softmax over the cell's 65 channels, dustbin dropped (section 3.2).

    Args:
        logits: `[B, 65, H/8, W/8]`.

    Returns:
        `[B, H, W]` float32.
    """
    probabilities = logits.float().softmax(dim=1)[:, :-1]
    return pixel_shuffle(probabilities, STRIDE)[:, 0]
