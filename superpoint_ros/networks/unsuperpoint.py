"""UnsuperPoint (Christiansen, Kragh, Brodskiy, Karstoft 2019): a score, a position and a descriptor for every cell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from superpoint_ros.networks.family import CellNetwork, cell_scores, soft_peak
from superpoint_ros.networks.layers import LEAK, STRIDE, Encoder, FineLogits, check_config, make_head


@dataclass(frozen=True)
class UnsuperPointConfig:
    """What shapes an UnsuperPoint network; kept in the metadata of its weights. The defaults are the paper's.

    Attributes:
        widths: channels of the encoder's eight 3x3 convolutions; a 2x2 max-pool follows each pair but the last.
        head_width: channels of the 3x3 convolution that opens each of the three heads.
        descriptor_dim: D, the length of a descriptor.
        detector_head: `plain`, the paper's, or `skip`: score and position start from the peak of values computed for
            every pixel from the full-, half- and quarter-resolution features.
        norm: as SuperPoint's.
    """

    widths: tuple[int, ...] = (32, 32, 64, 64, 128, 128, 256, 256)
    head_width: int = 256
    descriptor_dim: int = 256
    detector_head: str = 'plain'
    norm: str = 'batch'

    def __post_init__(self) -> None:
        check_config(self)


class UnsuperPoint(CellNetwork):
    """Image to one keypoint in each cell and a coarse descriptor map.

    The position relative to the cell is a sigmoid, so that a keypoint stays in its cell: offsets are in (-4, 4). The
    paper interpolates descriptors at the positions inside the network; here that is `layers.sample_at` in training and
    the same interpolation at the chosen keypoints alone when the network is in use.
    """

    architecture = 'unsuperpoint'

    def __init__(self, config: UnsuperPointConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UnsuperPointConfig()
        norm, encoded = config.norm != 'none', config.widths[-1]
        self.encoder = Encoder(config.widths, config.norm, LEAK)
        self.score = make_head(encoded, config.head_width, 1, norm=norm, leak=LEAK)
        self.position = make_head(encoded, config.head_width, 2, norm=norm, leak=LEAK)
        self.descriptor = make_head(encoded, config.head_width, config.descriptor_dim, norm=norm, leak=LEAK)
        self.skips = FineLogits(config.widths[1:6:2]) if config.detector_head == 'skip' else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `CellNetwork`."""
        features = self.encoder(image)
        score = self.score(features[-1])[:, 0]
        position = self.position(features[-1]).permute(0, 2, 3, 1).float()
        if self.skips is not None:
            height, peak = soft_peak(self.skips(features))
            score = score + height
            position = position + 2 * torch.atanh(peak * (2 / STRIDE))  # the logit of a sigmoid that gives the peak
        offsets = (position.sigmoid() - 0.5) * STRIDE
        return cell_scores(score), offsets, self.descriptor(features[-1])
