"""The kernels for GPUs beside what torch computes, interpreted; and whether they compile."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import conv2d

from superpoint_ros import triton_runtime
from superpoint_ros.networks import score_map

COMPILE = """
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from superpoint_ros import kernels, triton_runtime
from superpoint_ros.device_path import DevicePath
from superpoint_ros.engines import FusedMapNetwork
from superpoint_ros.keypoints import KeypointSettings
from superpoint_ros.networks import load_network
from superpoint_ros.on_device import DeviceFeatures

TYPES = {torch.float16: 'fp16', torch.float32: 'fp32', torch.int64: 'i64', torch.int32: 'i32', torch.uint8: 'u8'}
target = GPUTarget('cuda', int(sys.argv[1]), 32)
compiled = set()

def type_of(value):
    if isinstance(value, torch.Tensor):
        return '*' + TYPES[value.dtype]
    return 'i32' if isinstance(value, int) else 'fp32'

def compile_instead(self, *given, grid, warmup, **named):
    arguments = dict(zip(self.arg_names, given)) | {name: named.pop(name) for name in self.arg_names if name in named}
    constants = {p.name: arguments[p.name] for p in self.params if p.is_constexpr}
    types = {name: 'constexpr' if name in constants else type_of(arguments[name]) for name in self.arg_names}
    key = str((self.fn.__name__, types, constants, named))
    if key not in compiled:
        compiled.add(key)
        numbered = {(self.arg_names.index(name),): value for name, value in constants.items()}
        answer = triton.compile(ASTSource(self, types, numbered), target=target, options=named)
        assert answer.asm['cubin']
        print(self.fn.__name__)

JITFunction.run = compile_instead
triton_runtime.kernels_for = lambda device: kernels
meta = {'device': 'meta'}
for levels in (1, 4):
    maps = FusedMapNetwork(load_network('superpoint')).to('meta')
    path = DevicePath(maps, KeypointSettings(max_keypoints=1000, levels=levels), (480, 640))
    earlier = DeviceFeatures(
        torch.zeros(1, 1000, 2, **meta), torch.zeros(1, 1000, **meta), torch.zeros(1, 1000, 128, **meta).half(),
        torch.zeros(1, 1000, **meta, dtype=torch.int64),
    )
    allowed = [torch.zeros(1, *shape, **meta, dtype=torch.bool) for shape in path.shapes[:levels]]
    path(torch.zeros(1, 480, 640, **meta, dtype=torch.uint8), allowed, earlier)
"""


@pytest.mark.parametrize('capability', [80, 90])
def test_all_kernels_compile_for_gpus_with_the_types_that_a_path_gives_them(capability, tmp_path):
    pytest.importorskip('triton', reason='Triton is not installed')
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    run = subprocess.run(
        [sys.executable, '-c', COMPILE, str(capability)],
        env=environment | {'TRITON_CACHE_DIR': str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    names = run.stdout.split()
    assert len(set(names)) == 10
    assert names.count('_peaks_kernel') == 3  # with none, one and two levels beside


@pytest.mark.parametrize('channels', [65, 64])
def test_score_maps_by_kernels_are_those_of_torch(channels, kernels_on_cpu):
    from superpoint_ros import kernels

    wide = 4 * torch.randn(2, 5, 7, 72, generator=torch.Generator().manual_seed(0))
    logits = wide[..., :channels].permute(0, 3, 1, 2)
    torch.testing.assert_close(kernels.score_map(logits), score_map(logits.contiguous()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(('padding', 'stride', 'side'), [(1, 4, 6), (0, 4, 4), (1, 2, 4)])
def test_a_convolution_by_cells_is_added_by_kernels(padding, stride, side, kernels_on_cpu):
    """To logits that are wider than they look, at the edges of a map as well."""
    from superpoint_ros import kernels

    torch.manual_seed(0)
    features, weight = torch.randn(2, 32, 5 * stride, 7 * stride), torch.randn(64, 32, side, side)
    held = torch.randn(2, 5, 7, 72)
    logits, before = held[..., :65].permute(0, 3, 1, 2), held.clone()
    taps = weight.permute(2, 3, 1, 0).flatten(1, 2).contiguous()
    kernels.add_strided(logits, features, taps, stride, padding)
    added = conv2d(features, weight, None, stride, padding).permute(0, 2, 3, 1)
    torch.testing.assert_close(held[..., :64], before[..., :64] + added, rtol=1e-4, atol=1e-3)
    assert torch.equal(held[..., 64:], before[..., 64:])


def test_kernels_start_on_the_gpu_of_what_they_are_given(monkeypatch, kernels_on_cpu):
    """Triton takes the current one. Of a machine with several, this stands in for the second."""
    from superpoint_ros import kernels

    given = []
    monkeypatch.setattr(torch.cuda, 'device_of', lambda tensor: given.append(tensor) or nullcontext())
    features = torch.rand(1, 16, 4, 4)
    kernels.halve(features)
    assert given == [features]


@pytest.mark.parametrize('kind', ['cpu', 'cuda'])
def test_torch_computes_on_a_cpu_and_where_it_is_told_to(kind, monkeypatch):
    device = torch.device(kind)
    monkeypatch.setattr(triton_runtime, '_tried', lambda device: device)
    assert triton_runtime.kernels_for(device) == (device if kind == 'cuda' else None)
    with triton_runtime.torch_alone():
        assert triton_runtime.kernels_for(device) is None
    assert triton_runtime.kernels_for(device) == (device if kind == 'cuda' else None)


def test_without_kernels_that_compute_the_same_torch_computes(monkeypatch, kernels_on_cpu):
    from superpoint_ros import kernels

    cpu = torch.device('cpu')
    assert triton_runtime.try_kernels(cpu) is kernels
    monkeypatch.setattr(kernels, 'halve', lambda features: features[..., ::2, ::2])
    with pytest.warns(UserWarning, match='no kernels by Triton.*: they compute something else'):
        assert triton_runtime.try_kernels(cpu) is None
    monkeypatch.setattr('triton.__version__', '3.1.0')
    with pytest.warns(UserWarning, match=r'Triton 3\.1\.0 is too old'):
        assert triton_runtime.try_kernels(cpu) is None
    monkeypatch.setattr('triton.__version__', '3.9.0')
    monkeypatch.setitem(sys.modules, 'superpoint_ros.kernels', None)
    monkeypatch.delattr('superpoint_ros.kernels')
    with pytest.warns(UserWarning, match='no kernels by Triton.*superpoint_ros.kernels'):
        assert triton_runtime.try_kernels(cpu) is None
