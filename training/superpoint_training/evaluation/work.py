"""Many small jobs on a few threads, in order, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar('Item')
Result = TypeVar('Result')


def each(items: Sequence[Item], work: Callable[[Item], Result], jobs: int, label: str, unit: str) -> list[Result]:
    """`work` of every item, in the items' order. OpenCV, NumPy and the networks compute outside Python's lock.

    Args:
        jobs: threads.
        label, unit: of the progress bar.
    """
    progress = tqdm(total=len(items), desc=label, unit=unit, disable=None)  # None: only on a terminal
    with ThreadPoolExecutor(max_workers=jobs) as pool, progress as bar:

        def counted(item: Item) -> Result:
            result = work(item)
            bar.update()
            return result

        return list(pool.map(counted, items))
