# SPDX-License-Identifier: Apache-2.0
"""Default routes in the kernel's tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.nic import routes

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import recording
else:
    from fakenic import recording


@pytest.mark.parametrize("name", ["debian12", "debian13", "debian13-backports"])
def test_real_tables(name: str) -> None:
    """The recordings also hold a blackhole, an unreachable IPv6 default and routes of single networks."""
    recorded = recording(name)
    assert "*\t" in recorded["route"]
    assert routes.parse_ipv4(recorded["route"]) == {"bond0.5"}
    assert routes.parse_ipv6(recorded["ipv6_route"]) == {"bond1"}


HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0", {"eth0"}),
        ("eth0\t00000000\t0100000A\t0000\t0\t0\t0\t00000000\t0\t0\t0", set()),  # not up
        ("eth0\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0", set()),  # rejected
        ("eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0", set()),  # 0.0.0.0/1
        ("eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0", set()),
        ("eth0\tzzzz\t0\t0003\t0\t0\t0\t00000000", set()),
        ("eth0", set()),
    ],
)
def test_ipv4_lines(line: str, found: set[str]) -> None:
    assert routes.parse_ipv4(HEADER + line + "\n") == found


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    routes.parse_ipv4(text)
    routes.parse_ipv6(text)
