"""What the tests of losses on pairs of views share."""

import pytest
import torch
from torch import nn


def batch_of(image_a, image_b, homography, visible=True):
    rows, columns = image_a.shape[-2] // 8, image_a.shape[-1] // 8
    valid = torch.full((len(image_a), rows, columns), visible)
    return {
        'image_a': image_a, 'image_b': image_b, 'a_to_b': homography.expand(len(image_a), 3, 3),
        'valid_a': valid, 'valid_b': valid.clone(), 'described': torch.ones(len(image_a), dtype=torch.bool),
        'points_a': torch.rand(len(image_a), 7, 2) * 30, 'points_b': torch.rand(len(image_a), 7, 2) * 30,
        'points_valid': torch.full((len(image_a), 7), visible),
    }  # fmt: skip


class Exact(nn.Module):
    """A network out of autocast's reach."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.outliers = getattr(network, 'outliers', None)
        self.descriptor_stride = network.descriptor_stride

    def forward(self, image):
        with torch.autocast('cpu', enabled=False):
            return self.network(image)


def assert_losses_ignore_autocast(losses, network, batch, config):
    """Only the network is in half precision: with its outputs exact, so is every loss."""
    expected = losses(network, batch, config)
    with torch.autocast('cpu', torch.bfloat16):
        actual = losses(Exact(network), batch, config)
    for name, value in expected.items():
        assert actual[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-7), name
