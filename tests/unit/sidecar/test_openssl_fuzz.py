# SPDX-License-Identifier: Apache-2.0
"""The binding under any call with any argument, and over many lives: nothing crashes, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ktls_sidecar.openssl import Library
from tests.unit.sidecar import long_binding
from tests.unit.sidecar.openssl_support import Pair

REPOSITORY = Path(__file__).parents[3]


def search(log: Path, *options: str) -> tuple[int, str, list[str]]:
    """Run the machine in a child. Return its status, its output, and the calls since its last fresh start."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(REPOSITORY / name) for name in (".", "agent"))}
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "tests.unit.sidecar.openssl_machine", "--log", str(file.fileno()), *options]
        done = subprocess.run(
            command,
            check=False,
            cwd=REPOSITORY,
            env=environment,
            pass_fds=[file.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            timeout=600,
        )
    calls = log.read_text(errors="backslashreplace").rpartition("--- a new example\n")[2].splitlines()
    return done.returncode, done.stdout, calls


def test_any_call_with_any_argument(tmp_path: Path) -> None:
    status, output, calls = search(tmp_path / "log", "--examples", "25")
    assert status == 0, "\n".join([f"exit status {status}", output, "the last calls:", *calls])
    # A search that never gets anywhere finds nothing either. The rarer of these are missed now and then.
    log = (tmp_path / "log").read_text(errors="backslashreplace")
    wanted = ("handshake(", "-> 1\n", "-> -3", "-> b'zzz", "unfinished", "freed", "select(")
    reached = [text for text in wanted if text in log]
    assert len(reached) >= 4, reached


def test_a_crash_is_reported_with_the_calls_before_it(tmp_path: Path) -> None:
    status, output, calls = search(tmp_path / "log", "--examples", "40", "--crash-after", "30")
    assert status == -signal.SIGSEGV
    assert "Segmentation fault" in output
    assert calls[0].startswith("connect(")
    assert "(" in calls[-1]
    assert not calls[-1].startswith("    ")


def test_many_lives_leave_nothing_behind(tmp_path: Path) -> None:
    lives, grown = long_binding.watch(4.0, tmp_path)
    assert lives > len(long_binding.Lives(tmp_path).kinds) * 4
    assert grown == []


@pytest.mark.parametrize(
    ("owner", "name", "found"),
    [(Library, "SSL_free", "malloc"), (Pair, "close", "descriptors"), (Library, "SSL_CTX_free", "malloc")],
)
def test_what_is_lost_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, found: str
) -> None:
    if owner is Library:
        monkeypatch.setattr(long_binding, "load", lambda: _Leaky(name))
    else:
        kept: list[object] = []

        def keep(pair: object) -> None:
            kept.append(pair)

        monkeypatch.setattr(owner, name, keep)
    _, grown = long_binding.watch(1.0, tmp_path)
    assert any(line.startswith(found) for line in grown), grown


class _Leaky(Library):
    def __init__(self, name: str) -> None:
        super().__init__()
        setattr(self, name, lambda _pointer: None)
