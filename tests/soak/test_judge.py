# SPDX-License-Identifier: Apache-2.0
"""The soak's judge finds each thing that it is there to find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .judge import Record, judge
from .load import Broken, Tally
from .picture import draw
from .soak import MODES, as_json


def sample(time: float, **changes: Any) -> dict[str, Any]:
    tls = {"TlsCurrTxSw": 0, "TlsCurrRxSw": 0, "TlsTxSw": 50, "TlsRxSw": 20, "TlsDecryptError": 0}
    tls |= {name: changes.pop(name) for name in list(changes) if name.startswith("Tls")}
    return {"time": time, "processes": 3, "rss_kib": 90_000, "fds": 60, "connections": 0, "tls": tls, **changes}


def good() -> Record:
    return Record(
        tally=Tally(right=1000, bytes=10**9, broken=[Broken(95, 101, "TimeoutError")], kinds={"new": 1}),
        flaps=[(100, 102)],
        modes=[(90, "tx"), (92, "rx"), (94, "userspace")],
        before=[sample(80), sample(82)],
        samples=[sample(100, rss_kib=200_000, fds=500, connections=8, TlsCurrTxSw=8)],
        after=[sample(200, rss_kib=91_000), sample(202, rss_kib=91_000)],
        status={"errors": {}},
    )


def test_a_good_one_passes() -> None:
    assert judge(good(), MODES) == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda r: r.tally.wrong.append("large.bin"), "wrong body"),
        (lambda r: r.tally.broken.append(Broken(140, 141, "reset")), "without a flap"),
        (lambda r: r.tally.broken.append(Broken(80, 99, "reset")), "without a flap"),
        (lambda r: r.refused.update(rx="no"), "refused"),
        (lambda r: r.flaps.clear(), "never cut"),
        (lambda r: r.modes.pop(), "never taken"),
        (lambda r: setattr(r.tally, "right", 3), "only 3"),
        (lambda r: r.status["errors"].update(ssl_error=2), "ssl_error"),
        (lambda r: r.after.append(sample(204, TlsCurrTxSw=1)), "TlsCurrTxSw"),
        (lambda r: r.after.append(sample(204, TlsCurrRxSw=1)), "TlsCurrRxSw"),
        (lambda r: r.after.append(sample(204, TlsDecryptError=1)), "TlsDecryptError"),
        (lambda r: r.after.append(sample(204, TlsRxSw=0)), "no kernel TLS"),
        (lambda r: r.after.append(sample(204, connections=1)), "connections are left"),
        (lambda r: r.after.append(sample(204, processes=2)), "processes became"),
        (lambda r: r.after.__setitem__(slice(None), [sample(200, fds=80)]), "fds grew"),
        (lambda r: r.after.__setitem__(slice(None), [sample(200, rss_kib=110_000)]), "rss_kib grew"),
        (lambda r: r.after.clear(), "no samples"),
    ],
)
def test_each_fault_is_found(spoil: Any, word: str) -> None:
    record = good()
    spoil(record)
    assert any(word in line for line in judge(record, MODES)), judge(record, MODES)


def test_the_record_can_be_kept() -> None:
    kept = json.loads(as_json({"seed": 1}, [], good()))
    assert (kept["seed"], kept["tally"]["right"], kept["flaps"]) == (1, 1000, [[100, 102]])


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw(good(), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
