"""Types of command-line options."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """For `argparse`: a whole number, this one or more."""

    def whole_number(word: str) -> int:
        number = int(word)
        if number < least:
            raise ArgumentTypeError(f'must be {least} or more, not {word}')
        return number

    return whole_number
