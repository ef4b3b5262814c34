"""SuperPoint (DeTone, Malisiewicz, Rabinovich 2018): one encoder, a detector head and a descriptor head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import pad

from superpoint_ros.networks.family import KeypointNetwork
from superpoint_ros.networks.layers import STRIDE, ConvBlock, Encoder, FineLogits, check_config, make_head
from superpoint_ros.networks.turning import ORIENTATIONS, StrongestTurning, TurningPixels


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
        turning: whether the network turns with the picture: keypoints of a picture turned by 90 degrees are the
            same, and so are their descriptors. Needs channels in multiples of 4, and has a quarter of the
            parameters. See `superpoint_ros.networks.turning`.
        first_stride: 1, the paper's; or 2: nothing is computed at full resolution, where networks as narrow as ours
            spend a quarter of their time or more; `skip` then takes the half- and quarter-resolution features. See
            `Encoder`.
    """

    widths: tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128, 128)
    head_width: int = 256
    descriptor_dim: int = 256
    detector_head: str = 'plain'
    norm: str = 'batch'
    skip_kernel: int = 3
    turning: bool = False
    first_stride: int = 1

    def __post_init__(self) -> None:
        check_config(self)
        if self.skip_kernel not in (1, 3):
            raise ValueError(f'skip_kernel must be 1 or 3, got {self.skip_kernel}')
        if self.first_stride not in (1, 2):
            raise ValueError(f'first_stride must be 1 or 2, got {self.first_stride}')
        if self.turning and any(width % ORIENTATIONS for width in (*self.widths, self.head_width)):
            raise ValueError(
                'widths and head_width of a turning network must be multiples of 4, '
                f'got {tuple(self.widths)} and {self.head_width}'
            )


class SuperPoint(KeypointNetwork):
    """Image to keypoint logits and a coarse descriptor map (paper section 3).

    Attributes:
        join: adds what skips make of features to logits, for which another form may be taken.
    """

    architecture = 'superpoint'

    def __init__(self, config: SuperPointConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SuperPointConfig()
        norm = config.norm != 'none'
        encoded, width, turning = config.widths[-1], config.head_width, config.turning
        self.encoder = Encoder(config.widths, config.norm, turning=turning, first_stride=config.first_stride)
        if turning:
            self.detector, self.descriptor = (
                nn.Sequential(ConvBlock(encoded, width, norm=norm, turning=True), last)
                for last in (
                    TurningPixels(width, STRIDE, 1, rest=True),
                    StrongestTurning(width, config.descriptor_dim, 1),
                )
            )
        else:
            self.detector = make_head(encoded, width, STRIDE**2 + 1, norm=norm)
            self.descriptor = make_head(encoded, width, config.descriptor_dim, norm=norm)
        self.finest = config.first_stride - 1  # of two maps of half the resolution the deeper one
        fine = config.widths[1:6:2][self.finest :], config.skip_kernel, turning, self.encoder.sides[self.finest : 3]
        self.skips = FineLogits(*fine) if config.detector_head == 'skip' else None
        self.join: Callable[[nn.Module, Tensor, list[Tensor]], Tensor] = _join

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            image: `[B, 1, H, W]` grey in [0, 1]; H and W multiples of 8.

        Returns:
            logits `[B, 65, H/8, W/8]`: one per pixel of the cell in raster order, the last "no keypoint here";
            descriptors `[B, D, H/8, W/8]`, one per cell centre, not normalised.
        """
        features = self.encoder(image)
        logits = self.detector(features[-1])
        if self.skips is not None:
            logits = self.join(self.skips, logits, features[self.finest :])
        return logits, self.descriptor(features[-1])

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


def _join(skips: nn.Module, logits: Tensor, features: list[Tensor]) -> Tensor:
    return logits + pad(skips(features), (0, 0, 0, 0, 0, 1))
