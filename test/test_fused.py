"""Networks in fewer steps: the same maps, from any architecture and configuration, on a GPU and on a CPU."""

import pytest
import torch
from torch import nn

from superpoint_ros.engines import FusedMapNetwork, MapNetwork, fused_or
from superpoint_ros.networks import SuperPoint, SuperPointConfig, fold_batch_norm, fuse, load_network, shipped_weights


def fresh(**config):
    """With random BatchNorm statistics and biases."""
    torch.manual_seed(0)
    network = SuperPoint(SuperPointConfig((8, 8, 8, 8, 12, 12, 16, 16), 12, 20, **config)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.normal_(module.running_mean, 0, 0.5)
        if getattr(module, 'bias', None) is not None:
            nn.init.normal_(module.bias, 0, 0.3)
    return fold_batch_norm(network)


def pictures():
    return torch.randint(0, 256, (2, 1, 40, 56), generator=torch.Generator().manual_seed(0))


def assert_same_of_grey_levels(network):
    expected = network(pictures() / 255)
    for map_, same in zip(
        fuse(network).to(memory_format=torch.channels_last)(pictures().float()), expected, strict=True
    ):
        torch.testing.assert_close(map_, same, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', shipped_weights())
def test_shipped_networks_compute_the_same_fused(name):
    assert_same_of_grey_levels(load_network(name))


@pytest.mark.parametrize('name', shipped_weights())
def test_shipped_networks_compute_the_same_by_kernels(name, kernels_on_cpu):
    assert_same_of_grey_levels(load_network(name))


@pytest.mark.parametrize('head', ['plain', 'skip'])
@pytest.mark.parametrize('norm', ['none', 'batch', 'batch_below_full'])
@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('turning', [False, True])
@pytest.mark.parametrize('first_stride', [1, 2])
def test_any_superpoint_computes_the_same_fused(head, norm, kernel, turning, first_stride):
    assert_same_of_grey_levels(
        fresh(detector_head=head, norm=norm, skip_kernel=kernel, turning=turning, first_stride=first_stride)
    )


def test_fusing_leaves_the_network_as_it_was():
    network = fresh()
    before = network(pictures() / 255)
    fuse(network)
    assert all(map(torch.equal, network(pictures() / 255), before))


def test_nothing_is_added_and_cut_off_in_passes_of_its_own():
    fused = fuse(load_network('superpoint'))
    assert not any(isinstance(module, nn.ReLU) for module in fused.modules())
    assert not any(isinstance(module, nn.Conv2d) for module in fused.modules())


@pytest.mark.parametrize('name', shipped_weights())
def test_half_precision_is_near_float32(name, device):
    """A value is rounded by up to 1 / 2048, in each of a dozen layers."""
    network = load_network(name)
    exact = MapNetwork(network).eval()(pictures())
    fused = FusedMapNetwork(network).eval().to(device, memory_format=torch.channels_last)
    for map_, reference in zip(fused(pictures().to(device)), exact, strict=True):
        assert (map_.cpu() - reference).norm() < 0.005 * reference.norm()


def test_a_fused_network_is_taken_where_it_computes_the_same():
    plain, fused = (
        maps(load_network('superpoint_small'), torch.bfloat16).eval() for maps in (MapNetwork, FusedMapNetwork)
    )
    assert fused_or(plain, fused) is fused


class Failing(FusedMapNetwork):
    """As cuDNN does where it has no such step, or where a step reads what nobody wrote."""

    def forward(self, images):
        if self.fault == 'error':
            raise RuntimeError('GET was unable to find an engine to execute this computation')
        if self.fault == 'other error':
            raise ValueError('no such instruction')
        scores, descriptors = super().forward(images)
        if self.fault == 'wrong':
            scores[0, 100, 100] = 5.0
        else:
            {'nan scores': scores, 'nan descriptors': descriptors}[self.fault][0, 10, 10] = torch.nan
        return scores, descriptors


@pytest.mark.parametrize(('fault', 'told'), [
    ('error', 'unable to find an engine'), ('other error', 'no such instruction'),
    ('nan scores', 'off by nan'), ('nan descriptors', 'off by .*, nan'),
    ('wrong', r'off by \d+'),
])  # fmt: skip
def test_it_is_not_taken_elsewhere_which_is_said(fault, told):
    network = load_network('superpoint_small')
    plain, fused = MapNetwork(network).eval(), Failing(network, torch.float32).eval()
    fused.fault = fault
    with pytest.warns(UserWarning, match=f'in fewer steps here.*: .*{told}'):
        assert fused_or(plain, fused) is plain
