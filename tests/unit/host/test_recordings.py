# SPDX-License-Identifier: Apache-2.0
"""The recordings are there: without them the tests of real formats would silently be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.host import recordings
else:
    import recordings


def test_each_lab_kernel_is_recorded() -> None:
    assert [recordings.load(path).version for path in recordings.paths()] == [(6, 1), (6, 12), (7, 2)]
