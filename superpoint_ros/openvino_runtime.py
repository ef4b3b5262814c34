"""OpenVINO where it is installed, and what it finds the CPU able to do."""

from __future__ import annotations

import sys
from functools import cache

import torch

# OpenVINO's telemetry forks while other threads compute: OpenBLAS's hold the fork, and it holds the whole process.
# Without the module OpenVINO sends nothing, which is what a robot is expected to do anyway.
sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
try:
    import openvino
except ImportError:
    openvino = None


@cache
def _core() -> openvino.Core:
    """The one of this process: each more would load the CPU plugin with its threads anew, and unload it some time."""
    return openvino.Core()


@cache
def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16, with OpenVINO there to use it."""
    return openvino is not None and 'BF16' in _core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def forget_traces() -> None:
    """Free what PyTorch keeps of each network that was traced for OpenVINO, 7 MB a time.

    For processes that are ours alone: TorchScript modules that anybody else has in this one would crash.
    """
    getattr(torch._C, '_jit_clear_class_registry', lambda: None)()


def compile_for_cpu(graph: openvino.Model, *, bfloat16: bool) -> openvino.CompiledModel:
    """Compile for the least time of one inference; all that is not quantised computes in bfloat16 or float32."""
    precision = openvino.Type.bf16 if bfloat16 else openvino.Type.f32
    config = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': precision}
    return _core().compile_model(graph, 'CPU', config)
