# SPDX-License-Identifier: Apache-2.0
"""Statistics of groups of rows, all groups at once. Empty groups are NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def means(group: Array, values: Array, groups: int) -> tuple[Array, Array]:
    """Mean of each group, and its size."""
    count = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=values, minlength=groups)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count


def medians(group: Array, values: Array, groups: int) -> Array:
    """Median of each group."""
    return _quantile(group, values, groups, 0.5)


def upper_tenths(group: Array, values: Array, groups: int) -> Array:
    """Value that nine of ten of each group do not exceed."""
    return _quantile(group, values, groups, 0.9)


def _quantile(group: Array, values: Array, groups: int, part: float) -> Array:
    ordered = np.lexsort((values, group))
    values = values[ordered]
    count = np.bincount(group, minlength=groups)
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    found = np.full(groups, np.nan)
    some = np.flatnonzero(count)
    if len(some):
        found[some] = values[begin[some] + np.ceil(part * count[some]).astype(int) - 1]
    return found
