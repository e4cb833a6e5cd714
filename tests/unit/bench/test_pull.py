# SPDX-License-Identifier: Apache-2.0
"""The figures of the pull: percentiles, verdict, and where they are written."""

from __future__ import annotations

import pytest

from bench.pull import result


def measured(**changes: float) -> dict[str, object]:
    one = {"n": 200, "p50": 1.0, "p90": 2.0, "p99": 2.5, "max": 3.0}
    late = {**one, **changes}
    cost = {"polls_per_s": 100.0, "cpu_s_per_poll": 0.001, "cpu_share": 0.0005, "server_s_per_poll": 0.0001}
    return {
        "summary": {"flag": one, "last_ktls": one, "first_userspace": late, "gap": one},
        "hosts": 200, "namespaces": 10, "rounds": 1, "missed": 0, "machine": "a machine", "load": 1.0,
        "date": "2026-11-26", "period_s": 0.5, "cost": cost,
    }  # fmt: skip


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [result.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert result.summary([3.0]) == {"n": 1, "p50": 3.0, "p90": 3.0, "p99": 3.0, "max": 3.0}


def test_the_verdict_is_by_what_cannot_be_too_early_and_no_host_is_missed() -> None:
    assert result.met(measured())
    assert not result.met(measured(p99=5.1))
    assert not result.met({**measured(), "missed": 1})
    assert "**NOT met**" in result.table(measured(p99=5.1))


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = f"a\n{result.BEGIN}\nold\n{result.END}\nb\n"
    assert result.into(page, "new\n") == f"a\n{result.BEGIN}\nnew\n{result.END}\nb\n"
    with pytest.raises(ValueError):
        result.into("no marks", "new\n")
