"""Training on features as coarse as an engine on 8 bits has them: weights that do without what it rounds away."""

from __future__ import annotations

from torch import Tensor, nn

from superpoint_ros.quantisation import EQUALISATION, SMALLEST_SHARE, STEPS


def round_features(network: nn.Module) -> None:
    """Have every ReLU of a network, while it trains, round its features as `superpoint_ros.quantisation` does.

    Ranges are those of the batch. Gradients pass as if nothing were rounded (Jacob et al. 2018, section 3).
    """
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(_rounded)


def _rounded(relu: nn.Module, _inputs: tuple[Tensor, ...], features: Tensor) -> Tensor:
    return features + _lost(features.detach()) if relu.training else features


def _lost(features: Tensor) -> Tensor:
    """What rounding adds to features `[B, C, H, W]`, none of them below 0: 255 steps, after channels are equalised."""
    # Row upon row first: a maximum over all but the channels takes ten times as long.
    top = features.permute(0, 2, 3, 1).flatten(0, 1).amax(0).amax(0).float()
    scale = (top / top.max().clamp(min=1e-6)).clamp(min=SMALLEST_SHARE) ** EQUALISATION
    step = (scale * (top / scale).max().clamp(min=1e-6) / STEPS)[:, None, None]
    return (features * (1 / step).to(features)).round_().mul_(step.to(features)).sub_(features)
