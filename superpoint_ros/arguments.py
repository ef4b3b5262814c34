"""Types of command-line options."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """For `argparse`: a whole number, this one or more."""

    def whole_number(word: str) -> int:
        try:
            number = int(word)
        except ValueError:
            raise ArgumentTypeError(f'must be a whole number, {least} or more, not {word}') from None
        if number < least:
            raise ArgumentTypeError(f'must be {least} or more, not {word}')
        return number

    return whole_number


def not_negative(word: str) -> float:
    """For `argparse`: a finite number, 0 or more."""
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ArgumentTypeError(f'must be a number, 0 or more, not {word}')
    return number
