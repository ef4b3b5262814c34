"""What the processor is and can do."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def _description() -> dict[str, str]:
    """The first core's entries as Linux lists them; empty elsewhere."""
    with suppress(OSError):
        first_core = Path('/proc/cpuinfo').read_text().split('\n\n', 1)[0]
        entries = (line.partition(':') for line in first_core.splitlines())
        return {key.strip(): value.strip() for key, _, value in entries}
    return {}


def processor_name() -> str:
    """As Linux names it, else as Python does."""
    return _description().get('model name') or platform.processor() or platform.machine()


def multiplies_int8() -> bool:
    """Whether it has instructions for sums of 8-bit products (VNNI), at least twice as fast as any floats'."""
    return not {'avx512_vnni', 'avx_vnni', 'amx_int8'}.isdisjoint(_description().get('flags', '').split())
