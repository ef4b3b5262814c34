"""results.json: what was measured, with everything needed to measure it again."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from superpoint_ros.processor import processor_name
from superpoint_training.evaluation.problems import Skipped
from superpoint_training.files import write_whole
from superpoint_training.versions import installed

FORMAT = 1


def header(command: Sequence[str], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """What every results.json begins with."""
    return {
        'format': FORMAT,
        'command': shlex.join(command),
        'created': datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ'),
        'versions': installed(),
        'machine': machine(),
        'skipped': [{'what': each.what, 'why': each.why} for each in skipped],
    }


def machine() -> str:
    """The processor and how many of its cores there are."""
    return f'{processor_name()}, {os.cpu_count()} cores, {platform.system()}'


def write(results: dict[str, Any], path: Path) -> None:
    """Write as JSON, whole or not at all; what is not a finite number becomes null.

    Raises:
        TrainingError: it can't be written.
    """
    write_whole(path, (json.dumps(finite(results), indent=1, allow_nan=False) + '\n').encode())


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
