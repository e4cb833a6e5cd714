# SPDX-License-Identifier: Apache-2.0
"""Statistics of groups of rows, all groups at once."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def medians(group: Array, values: Array, groups: int) -> tuple[Array, Array]:
    """Median of each group, NaN for an empty one; and the sizes."""
    ordered = np.lexsort((values, group))
    group, values = group[ordered], values[ordered]
    count = np.bincount(group, minlength=groups)
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    found = np.full(groups, np.nan)
    some = np.flatnonzero(count)
    if len(some):
        low, high = begin[some] + (count[some] - 1) // 2, begin[some] + count[some] // 2
        found[some] = (values[low] + values[high]) / 2
    return found, count
