# SPDX-License-Identifier: Apache-2.0
"""CPU after an off: what is known is reckoned, what is not is not guessed, and errors are on the dear side."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_control.judge.model import HostSeries, Sample
from ktls_control.plan.headroom import Load, after_off, ktls_share, peak, ratio, serving


def series(*cores: float | None, host: str = "web1") -> HostSeries:
    """A sample a minute."""
    return HostSeries(
        host,
        tuple(Sample(60.0 * n, 60.0, cpu_s=None if use is None else use * 60) for n, use in enumerate(cores, start=1)),
    )


def evidence(share: float | None, ns: float | None, number: int = 10**9, part: str = "interval") -> dict[str, Any]:
    found = {"ktls_sent_share": share, "cpu": {"sidecar": {"cpu_s": 1, "bytes": number, "ns_per_byte": ns}}}
    return {"phase": "tx", "evidence": {"known": True, "interval": None, part: found}}


@pytest.mark.parametrize(
    ("load", "times", "cost", "need"),
    [
        # In userspace already: as now.
        (Load(8, 0.4, None, 0.0), 1.0, None, 0.4),
        # All in the kernel at half the price: what serves doubles, the rest stays.
        (Load(8, 0.4, 2.4, 1.0), 1.0, 2.0, 0.7),
        # Twice the traffic in the busiest hour.
        (Load(8, 0.4, 2.4, 1.0), 2.0, 2.0, 1.3),
        # Half of the bytes.
        (Load(8, 0.4, 2.4, 0.5), 1.0, 2.0, 0.55),
        # Nobody knows what serving takes: all of it.
        (Load(8, 0.4, None, 1.0), 1.0, 2.0, 0.8),
        (Load(None, 0.4, 2.4, 1.0), 1.0, 2.0, 0.8),
        # kTLS that costs more is no reserve.
        (Load(8, 0.4, 2.4, 1.0), 1.0, 0.8, 0.4),
        # A moment's reading under what was recorded.
        (Load(8, 0.1, 2.4, 0.0), 2.0, None, 0.2),
        (Load(8, None, 2.4, 0.0), 1.0, 2.0, None),
        (Load(8, 0.4, 2.4, None), 1.0, 2.0, None),
        (Load(8, 0.4, 2.4, 1.0), 1.0, None, None),
    ],
)
def test_after_off(load: Load, times: float, cost: float | None, need: float | None) -> None:
    assert after_off(load, times, cost) == (None if need is None else pytest.approx(need))


def test_the_ratio_needs_both_kinds_of_hosts() -> None:
    userspace, kernel = evidence(0.0, 4.0), evidence(1.0, 2.0)
    assert ratio([userspace, kernel, evidence(0.01, 6.0)]) == pytest.approx(2.5)
    assert ratio([userspace]) is None and ratio([kernel]) is None and ratio([]) is None


def test_a_ratio_of_few_bytes_or_mixed_traffic_is_none() -> None:
    assert ratio([evidence(0.0, 4.0, number=1000), evidence(1.0, 2.0)]) is None
    assert ratio([evidence(0.5, 4.0), evidence(1.0, 2.0)]) is None
    assert ratio([evidence(None, None), {"evidence": {"known": False}}, {}]) is None


def test_totals_where_there_is_no_interval() -> None:
    assert ratio([evidence(0.0, 4.0, part="total"), evidence(1.0, 2.0, part="total")]) == pytest.approx(2.0)


def test_share_of_now() -> None:
    assert ktls_share(evidence(0.75, 1.0)) == 0.75
    assert ktls_share({"phase": "userspace", "evidence": {"known": False}}) == 0.0
    assert ktls_share({"phase": "tx", "evidence": {"known": False}}) is None


def test_the_busiest_minutes_by_now() -> None:
    busy = series(*[3.0] * 5, *[1.0] * 5)
    assert serving(busy) == pytest.approx(1.0)
    assert peak([busy]) == pytest.approx(3.0)
    assert peak([busy, series(*[1.0] * 10), series(*[1.0] * 10)]) == pytest.approx(1.0)


def test_a_spike_is_no_peak_and_too_little_is_nothing() -> None:
    assert peak([series(1.0, 1.0, 5.0, 1.0, 1.0, *[1.0] * 5)]) == pytest.approx(1.8)
    assert serving(series(1.0, 1.0)) is None and peak([series(*[1.0] * 5)]) is None and peak([]) is None
    assert serving(series(*[None] * 10)) is None
    assert peak([series(*[1.0] * 5, *[0.0] * 5)]) is None
