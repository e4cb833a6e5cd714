# SPDX-License-Identifier: Apache-2.0
"""The operator's command for a leak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktls_sentinel import onleak
from ktls_sentinel.watch import Leak

LEAKS = [Leak(1000.5, "192.0.2.1:8443", "192.0.2.9:40000", 7)]


def test_it_runs_once_with_the_leaks_and_little_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    said: list[str] = []
    assert onleak.run(["/bin/sh", "-c", f"env >> {tmp_path}/env"], LEAKS, said.append)
    found = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert json.loads(found["KTLS_LEAKS"]) == [LEAKS[0].as_dict()]
    assert "NOTIFY_SOCKET" not in found
    assert said == ["on_leak: /bin/sh is done"]


def test_it_is_tried_again_and_not_for_ever(tmp_path: Path) -> None:
    said: list[str] = []
    pauses: list[float] = []
    script = f"echo x >> {tmp_path}/ran; echo no way >&2; exit 3"
    assert not onleak.run(["/bin/sh", "-c", script], LEAKS, said.append, pauses.append)
    assert (tmp_path / "ran").read_text() == "x\n" * onleak.TRIES
    assert pauses == [onleak.PAUSE_S] * (onleak.TRIES - 1)
    assert said[0] == "on_leak: /bin/sh failed, try 1 of 5: exit status 3: no way"


def test_no_such_program_and_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert not onleak.run(["/no/such"], LEAKS, said.append, lambda _: None)
    assert "No such file or directory" in said[0]
    monkeypatch.setattr(onleak, "TIMEOUT_S", 0.05)
    assert not onleak.run(["/bin/sleep", "5"], LEAKS, said.append, lambda _: None)
    assert "no end within 0.05 s" in said[-1]
