"""Features rounded in training, held against the rule that engines on 8 bits round by."""

import numpy as np
import pytest
import torch

from superpoint_ros.networks import SuperPoint, SuperPointConfig
from superpoint_training.rounding import round_features


def relu_that_rounds():
    relu = torch.nn.Sequential(torch.nn.ReLU())
    round_features(relu)
    return relu


def features(dtype=torch.float32):
    torch.manual_seed(0)
    ranges = torch.tensor([8.0, 1.0, 0.1])[:, None, None]  # in bfloat16 steps of 1 / 255 of 8 are still told apart
    return (torch.randn(2, 3, 16, 24) * ranges).to(dtype)


def test_channels_are_rounded_to_steps_of_their_own():
    """Brute force: a channel scaled by (its maximum / the largest) ^ 0.7, and a 255th of what is then largest."""
    given = features()
    rounded = relu_that_rounds()(given).numpy()
    positive = given.clamp(min=0).numpy()
    maxima = positive.max(axis=(0, 2, 3))
    scale = (maxima / maxima.max()) ** 0.7
    for channel in range(3):
        step = scale[channel] * (maxima / scale).max() / 255
        expected = np.round(positive[:, channel] / step) * step
        np.testing.assert_allclose(rounded[:, channel], expected, atol=1e-3 * step)


def test_half_precision_keeps_to_the_steps():
    rounded = relu_that_rounds()(features(torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    assert len(rounded[:, 0].unique()) <= 256
    assert (rounded - features(torch.bfloat16).relu()).abs().max() <= 8 * 4 / 255


def test_gradients_pass_as_if_nothing_were_rounded():
    given = features().requires_grad_()
    (relu_that_rounds()(given) * torch.arange(24)).sum().backward()
    assert torch.equal(given.grad, (given > 0) * torch.arange(24.0))


def test_features_that_are_all_zero_stay_so():
    assert (relu_that_rounds()(-torch.ones(1, 2, 8, 8)) == 0).all()


@pytest.mark.parametrize('turning', [False, True])
def test_a_network_rounds_in_training_alone(turning):
    torch.manual_seed(1)
    network = SuperPoint(SuperPointConfig((8,) * 8, 8, 8, 'skip', 'none', turning=turning))
    image = torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        exact = network(image)[1].clone()
        round_features(network)
        rounded = network.train()(image)[1]
        assert torch.equal(network.eval()(image)[1], exact)
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert 1e-4 < error < 0.1
