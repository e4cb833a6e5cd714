# SPDX-License-Identifier: Apache-2.0
"""The demonstration claims only what was read back, and says so in summary and report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from ktls_control import report, timeline
from ktls_control.clients import Tally
from ktls_control.demo import Story, claims, marks, summarise
from ktls_control.fleet import OffResult
from ktls_control.inventory import host_from_vars
from ktls_control.progress import HostProgress, RolloutProgress, Wave
from ktls_control.sampler import Sample
from ktls_control.witness import Witness

NAMES = ("web1", "web2", "web3")


def entry(ktls: int, userspace: int, phase: str = "tx", order: str = "committed") -> dict[str, Any]:
    facts = {"kernel": "6.12", "openssl": "OpenSSL 3.5.0"}
    carried = {"ktls_tx": ktls, "userspace": userspace}
    return {"phase": phase, "order": order, "epoch": 1, "bytes": carried, "host": facts, "tls_stat": {"TlsTxSw": 5}}


def story() -> Story:
    progress = RolloutProgress("tx")
    done = {name: HostProgress("confirmed", 0.0) for name in NAMES}
    progress.waves = [Wave(1, 10.0, {"web1": done.pop("web1")}, 20.0), Wave(2, 20.0, done, 40.0)]
    progress.verdicts = {name: {"outcome": "pass", "bytes_total": 5_000_000} for name in NAMES}
    return Story(
        hosts=[host_from_vars(name, {}) for name in NAMES],
        started=0.0,
        progress=progress,
        rolled_out=True,
        off_at=50.0,
        off=[OffResult(name, True, True, True, 1.5, 2.5, 0, None) for name in NAMES],
        tallies={name: Tally(downloads=9, bytes=900) for name in NAMES},
        steady=[
            {"hosts": {name: entry(1000, 500) for name in NAMES}},
            {"hosts": {name: entry(101_000, 510) for name in NAMES}},
        ],
        final={"hosts": {name: entry(101_000, 900, "userspace", "reverted") for name in NAMES}},
        seen_on={name: Witness(2, 0, 0, {"TlsTxSw": 9, "TlsRxSw": 0}) for name in NAMES},
        seen_off={name: Witness(0, 0, 2, {"TlsTxSw": 9, "TlsCurrTxSw": 0}) for name in NAMES},
    )


def test_everything_as_it_should_be() -> None:
    found = claims(story())
    assert [claim.claim for claim in found if not claim.ok] == []
    assert len(found) == 7


def leak(told: Story) -> None:
    told.steady[1]["hosts"]["web2"]["bytes"]["userspace"] += 5000


def unread(told: Story) -> None:
    told.steady[1]["hosts"]["web2"] = {"reachable": False}


FAULTS: dict[str, tuple[Callable[[Story], object], str]] = {
    "the rollout failed": (lambda s: setattr(s, "rolled_out", False), "canary"),
    "one wave only": (lambda s: s.progress.waves.pop(), "canary"),
    "not committed": (lambda s: s.steady[1]["hosts"]["web3"].update(order="pending"), "every host is on tx"),
    "bytes by userspace": (leak, "99%"),
    "a host was not read": (unread, "99%"),
    "ss sees receive": (lambda s: s.seen_on.update(web1=Witness(2, 1, 0, {"TlsTxSw": 9})), "the kernel transmits"),  # type: ignore[attr-defined]
    "ss sees no kTLS": (
        lambda s: setattr(s, "seen_on", dict.fromkeys(NAMES, Witness(0, 0, 3, {"TlsTxSw": 9}))),
        "the kernel transmits",
    ),
    "ss was not read": (lambda s: setattr(s, "seen_on", {}), "the kernel transmits"),
    "a wrong hash": (lambda s: setattr(s.tallies["web1"], "mismatches", 1), "every download"),
    "a failed download": (lambda s: s.tallies["web1"].failures.append("x"), "every download"),
    "no download": (lambda s: setattr(s.tallies["web1"], "downloads", 0), "every download"),
    "off was not confirmed": (
        lambda s: s.off.__setitem__(0, OffResult("web1", True, True, False, None, None, 1, "x")),
        "off took every host",
    ),
    "still on after off": (lambda s: s.final["hosts"]["web1"].update(phase="tx"), "off took every host"),
    "ss sees kTLS after off": (
        lambda s: s.seen_off.update(web1=Witness(1, 0, 0, {"TlsCurrTxSw": 1})),  # type: ignore[attr-defined]
        "no kTLS connection is left",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_claim_that_was_not_read_back_does_not_hold(fault: str) -> None:
    spoil, claim = FAULTS[fault]
    told = story()
    spoil(told)
    found = claims(told)
    failed = [item.claim for item in found if not item.ok]
    assert any(claim in text for text in failed), failed
    assert summarise(told, found, "QEMU, tcg")["ok"] is False


def test_the_summary_has_what_it_promises() -> None:
    told = story()
    summary = json.loads(json.dumps(summarise(told, claims(told), "QEMU, tcg")))
    assert summary["ok"] is True
    assert summary["ktls_tx_percent"] == 99.99
    host = summary["hosts"]["web2"]
    assert (host["kernel"], host["openssl"], host["phase_reached"]) == ("6.12", "OpenSSL 3.5.0", "tx")
    assert host["ktls_tx_percent"] == 99.99
    assert host["content"]["ok"] is True
    assert (summary["off"]["last_new_s"], summary["off"]["none_left_s"]) == (1.5, 2.5)
    assert "emulation" in summary["note"]


def test_the_report_is_one_file_that_refers_to_nothing() -> None:
    told = story()
    samples = [
        Sample("web1", float(at), {"ktls_tx": 1, "userspace": 0}, {"ktls_tx": at * 1000, "userspace": 0})
        for at in range(60)
    ]
    origin, series = timeline.build(samples)
    page = report.render(summarise(told, claims(told), "QEMU, tcg"), series, marks(told, origin))
    assert "<svg" in page
    assert "wave 2" in page
    assert re.findall(r"""(?:src|href)=["'](?!#)""", page) == []
    assert re.findall(r"url\((?!['\"]?#)", page) == []


def test_what_a_host_says_cannot_become_markup() -> None:
    told = story()
    told.steady[1]["hosts"]["web1"]["host"]["kernel"] = "<script>alert(1)</script>"
    page = report.render(summarise(told, claims(told), "QEMU"), timeline.build([])[1], [])
    assert "<script" not in page
