"""How much of a difference between two runs is chance: intervals from resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DRAWS = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval; NaN where there is nothing to average, the ends also of one."""

    mean: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether it has ends."""
        return not math.isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(values: np.ndarray, groups: np.ndarray | None = None, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean (Efron & Tibshirani 1993, section 13.3).

    For paired samples give their differences. Each draw takes as many groups as there are, with replacement, and
    averages the values of all of them.

    Args:
        values: [N].
        groups: [N], what was sampled as one, such as the scene of a pair; None: each value on its own.
        draws: how many means the interval is read from.
        seed: the same gives the same interval.
    """
    values = np.asarray(values, float)
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan)
    labels = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(labels, values), np.bincount(labels)
    taken = resamples(len(sums), draws, seed)
    means = (taken @ sums) / (taken @ sizes)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(values.mean()), float(low), float(high))


@lru_cache(maxsize=4)  # all measures of all detectors draw the same, and drawing is what takes the time
def resamples(groups: int, draws: int, seed: int) -> np.ndarray:
    """[draws, groups] float: how often each draw takes each group."""
    counts = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=draws)
    return counts.astype(float)
