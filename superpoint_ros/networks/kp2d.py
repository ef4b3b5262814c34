"""KP2D, "Neural outlier rejection for self-supervised keypoint learning" (Tang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from superpoint_ros.networks.family import CellNetwork, cell_scores, soft_peak
from superpoint_ros.networks.layers import LEAK, STRIDE, ConvBlock, Encoder, FineLogits, check_config, make_head

HALF_CELL = (STRIDE - 1) / 2


@dataclass(frozen=True)
class KP2DConfig:
    """What shapes a KP2D network; kept in the metadata of its weights. The defaults are the paper's.

    Attributes:
        widths: channels of the encoder's eight 3x3 convolutions; a 2x2 max-pool follows each pair but the last.
        head_width: channels of the 3x3 convolution that opens each of the three heads.
        descriptor_dim: D, the length of a descriptor.
        cross_ratio: how far a keypoint may lie from the centre of its cell, in half cells of 3.5 px: 2 crosses
            borders (the paper), 1 stays inside.
        upsample: descriptors of stride 4, by pixel shuffle and a skip from the encoder; else of stride 8.
        dropout: share of channels dropped in training.
        outlier_width: channels of the outlier-rejection network, which only training uses; 0 leaves it out.
        detector_head: `plain`, the paper's, or `skip`: score and position start from the peak of values computed for
            every pixel from the full-, half- and quarter-resolution features.
        norm: as SuperPoint's.
    """

    widths: tuple[int, ...] = (32, 32, 64, 64, 128, 128, 256, 256)
    head_width: int = 256
    descriptor_dim: int = 256
    cross_ratio: float = 2.0
    upsample: bool = True
    dropout: float = 0.2
    outlier_width: int = 128
    detector_head: str = 'plain'
    norm: str = 'batch'

    def __post_init__(self) -> None:
        check_config(self)
        if self.upsample and self.head_width % 4:
            raise ValueError(f'head_width must be a multiple of 4 to be up-sampled, got {self.head_width}')
        if self.cross_ratio < 1:
            raise ValueError(f'cross_ratio must be at least 1, got {self.cross_ratio}')
        if not 0 <= self.dropout < 1 or self.outlier_width < 0:
            raise ValueError('dropout must be in [0, 1) and outlier_width 0 or more')


class KP2D(CellNetwork):
    """Image to one keypoint for each cell and a descriptor map (paper section 3.1).

    A keypoint lies at the centre of its cell plus `tanh * cross_ratio * 3.5` px, thus also beyond its border.

    Attributes:
        outliers: the outlier-rejection network, or None.
    """

    architecture = 'kp2d'

    def __init__(self, config: KP2DConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or KP2DConfig()
        encoded, width = config.widths[-1], config.head_width
        block: dict[str, Any] = {'norm': config.norm != 'none', 'leak': LEAK, 'dropout': config.dropout}
        self.encoder = Encoder(config.widths, config.norm, LEAK, config.dropout)
        self.score = make_head(encoded, width, 1, **block)
        self.position = make_head(encoded, width, 2, **block)
        if config.upsample:
            self.descriptor_stride = STRIDE // 2
            self.coarse = ConvBlock(encoded, width, **block)
            self.descriptor = make_head(width // 4 + config.widths[5], width, config.descriptor_dim, **block)
        else:
            self.descriptor = make_head(encoded, width, config.descriptor_dim, **block)
        self.skips = FineLogits(config.widths[1:6:2]) if config.detector_head == 'skip' else None
        self.outliers = OutlierNetwork(config.outlier_width) if config.outlier_width else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `CellNetwork`."""
        features = self.encoder(image)
        score = self.score(features[-1])[:, 0]
        position = self.position(features[-1]).permute(0, 2, 3, 1).float()
        reach = HALF_CELL * self.config.cross_ratio
        if self.skips is not None:
            height, peak = soft_peak(self.skips(features))
            score = score + height
            position = position + torch.atanh(peak * (0.99 / reach))
        return cell_scores(score), position.tanh() * reach, self._descriptors(features)

    def _descriptors(self, features: list[Tensor]) -> Tensor:
        if not self.config.upsample:
            return self.descriptor(features[-1])
        fine = pixel_shuffle(self.coarse(features[-1]), 2)
        return self.descriptor(torch.cat([fine, features[2]], dim=1))


class OutlierNetwork(nn.Module):
    """IO-Net: whether a match is right, seen beside all others of its pair of images (paper section 3.2).

    A convolution of length 1, four residual blocks of two, and one to a single value. Instance normalisation is over
    the matches that count.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(5, width, 1)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(8))
        self.leave = nn.Conv1d(width, 1, 1)

    def forward(self, matches: Tensor, valid: Tensor) -> Tensor:
        """Judge matches.

        Args:
            matches: `[B, 5, N]`: two positions, each scaled to [-1, 1], and the distance of the descriptors.
            valid: `[B, N]` bool, those that count.

        Returns:
            `[B, N]` in (-1, 1), towards 1 for an outlier and -1 for an inlier.
        """
        features = self.enter(matches)
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            inner = _instance_norm(first(features), valid).relu()
            features = (features + _instance_norm(second(inner), valid)).relu()
        return self.leave(features)[:, 0].float().tanh()


def _instance_norm(features: Tensor, valid: Tensor) -> Tensor:
    """`[B, C, N]` to zero mean and unit variance over the valid of N."""
    counted = valid[:, None].float()
    count = counted.sum(dim=2, keepdim=True).clamp(min=1)
    features = features.float()
    mean = (features * counted).sum(dim=2, keepdim=True) / count
    centred = (features - mean) * counted
    variance = centred.square().sum(dim=2, keepdim=True) / count
    return centred / (variance + 1e-5).sqrt()
