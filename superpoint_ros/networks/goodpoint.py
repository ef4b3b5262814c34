"""GoodPoint (Belikov & Potapov 2021): SuperPoint without the dustbin."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from superpoint_ros.networks.family import KeypointNetwork
from superpoint_ros.networks.layers import LEAK, STRIDE, Encoder, FineLogits, make_head
from superpoint_ros.networks.superpoint import SuperPointConfig


@dataclass(frozen=True)
class GoodPointConfig(SuperPointConfig):
    """As SuperPoint's: the defaults are the paper's, `detector_head` `skip` is what a short training needs.

    Its filters neither turn nor stride over the image: `turning` and `first_stride` stay as they are.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.turning or self.first_stride != 1:
            raise ValueError('goodpoint has no turning filters and no first_stride: leave them out')


class GoodPoint(KeypointNetwork):
    """Image to keypoint logits without a "no keypoint", and a coarse descriptor map."""

    architecture = 'goodpoint'

    def __init__(self, config: GoodPointConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GoodPointConfig()
        norm = config.norm != 'none'
        width, encoded = config.head_width, config.widths[-1]
        self.encoder = Encoder(config.widths, config.norm, LEAK)
        self.detector = make_head(encoded, width, STRIDE**2, norm=norm, leak=LEAK)
        self.descriptor = make_head(encoded, width, config.descriptor_dim, norm=norm, leak=LEAK)
        with_skips = config.detector_head == 'skip'
        self.skips = FineLogits(config.widths[1:6:2], config.skip_kernel) if with_skips else None
        if self.skips is not None:
            self._begin_without_preferences()

    def _begin_without_preferences(self) -> None:
        """Leave the first word to the full resolution, where no pixel of a cell differs from another.

        A network that learns from its own keypoints would go on with whatever pixels its random values prefer.
        """
        assert self.skips is not None
        for convolution in (self.detector[1], *list(self.skips)[1:]):
            assert isinstance(convolution, nn.Conv2d)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            image: `[B, 1, H, W]` grey in [0, 1]; H and W multiples of 8.

        Returns:
            logits `[B, 64, H/8, W/8]`, one per pixel of the cell in raster order; descriptors `[B, D, H/8, W/8]`, one
            per cell centre, not normalised.
        """
        features = self.encoder(image)
        logits = self.detector(features[-1])
        if self.skips is not None:
            logits = logits + self.skips(features)
        return logits, self.descriptor(features[-1])
