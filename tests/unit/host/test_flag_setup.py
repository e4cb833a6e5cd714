# SPDX-License-Identifier: Apache-2.0
"""Setting the pull up: idempotent, predicted exactly, read back, and gone without a trace."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ktls_host import flag_setup, release
from ktls_host.commands import CommandResult
from ktls_host.errors import KtlsError
from ktls_host.flag_setup import DesiredPull, Signer

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB4ZQqc8nXtWS00JCyt+4KS0lalSrCry8LI/N6b3hgTg flag"
URLS = ("https://a.example.org/flag", "https://b.example.org/flag")
WANTED = DesiredPull(fleet="prod", endpoints=URLS, signers=(Signer(KEY),))


class Host(release.System):
    """systemd as a recording; the fetcher answers as told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ran: list[str] = []
        self.active = self.enabled = False
        self.result = "none"
        self.clock = 0.0
        self.fail = ""
        #: What later polls find, one a second; and the polls in a row that reached no server.
        self.later: list[str] = []
        self.failures = 0
        (root / "etc/systemd/system").mkdir(parents=True)
        (root / "etc/systemd/system/ktls-pull.service").touch()
        os.chmod(root, 0o755)

    def run(self, *argv: str) -> CommandResult:
        if argv[1] == "show":
            state = {"ActiveState": "active" if self.active else "inactive", "LoadState": "loaded"}
            state["UnitFileState"] = "enabled" if self.enabled else "disabled"
            return CommandResult(0, "".join(f"{key}={value}\n" for key, value in state.items()), "")
        self.ran.append(" ".join(argv[1:]))
        if argv[1] == self.fail:
            return CommandResult(1, "", "Job failed.")
        if argv[1] in ("start", "restart"):
            self.active = True
            self.answer()
        self.active = self.active and argv[1] != "stop"
        self.enabled = (self.enabled or argv[1] == "enable") and argv[1] != "disable"
        return CommandResult(0, "", "")

    def answer(self) -> None:
        config = json.loads((self.root / "etc/ktls/pull.json").read_text())
        state = self.result if self.result in ("off", "none") else "unknown"
        self.failures = self.failures + 1 if self.result == "timeout" else 0
        endpoints = [{"url": url, "result": self.result, "failures": self.failures} for url in config["endpoints"]]
        status = {"fleet": config["fleet"], "state": state, "endpoints": endpoints, "problems": ["it is not there"]}
        path = self.root / "run/ktls-pull/status.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(status))

    def now(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        if self.later and self.clock % 1.0 == 0.0:
            self.result = self.later.pop(0)
            self.answer()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def ensure(host: Host, wanted: DesiredPull = WANTED, check: bool = False) -> flag_setup.Result:
    return flag_setup.ensure(wanted, root=str(host.root), check=check, system=host)


def test_a_first_run_writes_starts_and_reads_back_and_a_second_changes_nothing(host: Host) -> None:
    foreseen = ensure(host, check=True)
    assert host.ran == []
    result = ensure(host)
    assert (result.changed, result.steps, result.diff) == (True, foreseen.steps, foreseen.diff)
    assert host.ran == ["enable ktls-pull.service", "start ktls-pull.service"]
    assert (result.status or {})["state"] == "none"
    signers = (host.root / "etc/ktls/allowed_signers").read_text()
    assert signers == f'prod namespaces="ktls-flag" {KEY}\n'
    again = ensure(host)
    assert (again.changed, again.steps) == (False, [])


def test_only_what_changed_is_done(host: Host) -> None:
    ensure(host)
    host.ran.clear()
    more = replace(WANTED, signers=(*WANTED.signers, Signer(KEY, "20260101", "20270101")))
    assert ensure(host, more).steps == ["/etc/ktls/allowed_signers: replace"]
    assert host.ran == [], "the fetcher reads the signers anew by itself"
    other = replace(more, endpoints=URLS[:1], ca="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----")
    ensure(host, other)
    assert host.ran == ["restart ktls-pull.service"]
    assert json.loads((host.root / "etc/ktls/pull.json").read_text())["ca"] == "/etc/ktls/pull-ca.pem"
    ensure(host, more)
    assert not (host.root / "etc/ktls/pull-ca.pem").exists()


def test_a_switch_that_nobody_can_reach_is_refused_unless_you_insist(host: Host) -> None:
    host.result = "missing"
    with pytest.raises(KtlsError) as caught:
        ensure(host)
    assert caught.value.code == "no_flag"
    assert "it is not there" in caught.value.message
    assert "ktls flag sign --none" in caught.value.message
    assert not ensure(host, replace(WANTED, require_valid=False)).changed
    host.result = "none"
    host.answer()
    assert not ensure(host).changed


def test_one_poll_that_reached_no_server_refuses_nobody(host: Host) -> None:
    host.result, host.later = "timeout", ["timeout", "none", "timeout"]
    assert (ensure(host).status or {})["state"] == "none"
    assert host.later == ["timeout"], "it has waited no longer than it had to"


def test_three_polls_in_a_row_that_reached_no_server_refuse_a_host(host: Host) -> None:
    host.result, host.later = "timeout", ["timeout"] * 9
    with pytest.raises(KtlsError) as caught:
        ensure(host)
    assert caught.value.code == "no_flag"
    assert len(host.later) == 7, "the first one, and two more"
    host.result = "timeout"
    assert not ensure(host, replace(WANTED, require_valid=False)).changed
    assert len(host.later) == 7, "who does not insist does not wait"


def test_polls_that_end_later_than_the_wait_are_named_for_what_they_are(host: Host) -> None:
    host.result = "timeout"
    with pytest.raises(KtlsError) as caught:
        ensure(host)
    assert "it is not there" in caught.value.message
    assert 60 <= host.clock < 62


def test_a_fetcher_that_does_not_come_up_is_an_error_in_time(host: Host) -> None:
    host.result = "not_polled"
    with pytest.raises(KtlsError, match="has not asked its endpoints"):
        ensure(host)
    assert 60 <= host.clock < 62
    host.active, host.fail = False, "start"
    with pytest.raises(KtlsError, match=r"journalctl -u ktls-pull\.service"):
        ensure(host)


def test_absent_leaves_nothing(host: Host) -> None:
    before = sorted(path for path in host.root.rglob("*") if path.is_file())
    ensure(host, replace(WANTED, ca="-----BEGIN CERTIFICATE-----"))
    (host.root / "var/lib/ktls-pull").mkdir(parents=True)
    (host.root / "var/lib/ktls-pull/owed.json").touch()
    host.ran.clear()
    gone = DesiredPull(state="absent")
    assert ensure(host, gone, check=True).changed
    assert ensure(host, gone).changed
    assert host.ran == ["stop ktls-pull.service", "disable ktls-pull.service"]
    (host.root / "run/ktls-pull/status.json").unlink()  # as systemd does
    assert sorted(path for path in host.root.rglob("*") if path.is_file()) == before
    assert not ensure(host, gone).changed


def test_a_host_without_the_release_is_told_apart(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.root / "etc/systemd/system/ktls-pull.service").unlink()
    monkeypatch.setattr(flag_setup, "_service", lambda system: release.Service())
    with pytest.raises(KtlsError) as caught:
        ensure(host)
    assert caught.value.code == "no_release"
    assert ensure(host, check=True).changed


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"state": "on"}, "state"), ({"fleet": ""}, "fleet"), ({"fleet": "a\nb"}, "fleet"),
        ({"endpoints": ()}, "endpoints"),
        ({"endpoints": URLS[:1] * 2}, "endpoints"), ({"endpoints": ("http://a/",)}, "https"),
        ({"signers": ()}, "signers"),
        ({"signers": (Signer("/home/me/key.pub"),)}, "signers"), ({"signers": (Signer(f"{KEY}\n* {KEY}"),)}, "signers"),
        ({"signers": (Signer("-----BEGIN OPENSSH PRIVATE KEY-----"),)}, "signers"),
        ({"signers": (Signer(KEY, valid_before='1",cert-authority'),)}, "times"), ({"ca": "x"}, "ca"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_touched(host: Host, change: dict[str, Any], names: str) -> None:
    with pytest.raises(KtlsError) as caught:
        ensure(host, replace(WANTED, **change))
    assert caught.value.code == "bad_request"
    assert names in caught.value.message
    assert "PRIVATE" not in caught.value.message
    assert host.ran == []
