# SPDX-License-Identifier: Apache-2.0
"""/proc/net/tls_stat: whatever set of names a kernel has, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ktls_host import tls_stat

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.host.recordings import Recording

OLD_10 = [f"Tls{kind}{way}{who}" for kind in ("Curr", "") for way in ("Tx", "Rx") for who in ("Sw", "Device")]
OLD_10 += ["TlsDecryptError", "TlsRxDeviceResync"]


def test_recorded_kernels(recording: Recording) -> None:
    counters = tls_stat.parse(recording.tls_stat)
    assert len(counters) == recording.tls_stat_names
    assert set(OLD_10) < set(counters)
    assert (counters["TlsCurrTxSw"], counters["TlsCurrRxSw"]) == (4, 1)
    assert tls_stat.open_contexts(counters) == 5


def test_rekey_counters_came_with_6_14(recording: Recording) -> None:
    assert ("TlsTxRekeyOk" in tls_stat.parse(recording.tls_stat)) == (recording.version >= (6, 14))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("TlsTxSw\t7\n", {"TlsTxSw": 7}),
        ("TlsTxSw                         \t7", {"TlsTxSw": 7}),
        ("TlsBrandNew\t3\nTlsTxSw\t1\n", {"TlsBrandNew": 3, "TlsTxSw": 1}),
        ("TlsTxSw\n", {}),
        ("TlsTxSw seven\n", {}),
        ("TlsTxSw -1\n", {}),
        ("TlsTxSw \u0661\n", {}),
        ("TlsTxSw 1 2\nTlsRxSw 5\n", {"TlsRxSw": 5}),
        (f"TlsTxSw {2**64 - 1}\n", {"TlsTxSw": 2**64 - 1}),
        (f"TlsTxSw {'9' * 5000}\n", {}),
    ],
)
def test_parse(text: str, expected: dict[str, int]) -> None:
    assert tls_stat.parse(text) == expected


@given(st.text())
@example("\x00" * 9)
def test_parse_never_raises(text: str) -> None:
    assert all(value >= 0 for value in tls_stat.parse(text).values())


def test_missing_file_is_none_and_not_zero(tmp_path: Path) -> None:
    assert tls_stat.read(str(tmp_path / "tls_stat")) is None
    (tmp_path / "tls_stat").write_text("TlsTxSw\t2\n")
    assert tls_stat.read(str(tmp_path / "tls_stat")) == {"TlsTxSw": 2}


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({"TlsTxSw": 3}, {"TlsTxSw": 10}, {"TlsTxSw": 7}),
        ({"TlsCurrTxSw": 3}, {"TlsCurrTxSw": 1}, {"TlsCurrTxSw": -2}),
        ({"TlsTxSw": 30}, {"TlsTxSw": 4}, {"TlsTxSw": 4}),
        ({}, {"TlsTxRekeyOk": 2}, {"TlsTxRekeyOk": 2}),
        ({"TlsGone": 5}, {}, {}),
    ],
    ids=["counter", "gauge-down", "module-reloaded", "new-name", "lost-name"],
)
def test_delta(before: dict[str, int], after: dict[str, int], moved: dict[str, int]) -> None:
    assert tls_stat.delta(before, after) == moved


@given(st.dictionaries(st.sampled_from(OLD_10), st.integers(0, 2**63)))
def test_delta_of_no_change_is_zero(counters: dict[str, int]) -> None:
    assert set(tls_stat.delta(counters, counters).values()) <= {0}
