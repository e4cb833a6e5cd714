# SPDX-License-Identifier: Apache-2.0
"""The service's own decisions, without a wire."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ktls_host import unixsock
from ktls_host.jsonsock import Peer, RequestError
from ktls_sentinel import service
from ktls_sentinel.config import SentinelConfig, Target
from ktls_sentinel.watch import Leak

TARGET = Target("files1", "192.0.2.1", 8443, "files1.example.org")


def sentinel(place: Path) -> service.Sentinel:
    return service.Sentinel(SentinelConfig("lo", (TARGET,), interval_s=1.0, state_dir=str(place)))


def test_only_root_or_itself_may_clear(tmp_path: Path) -> None:
    watching = sentinel(tmp_path)
    watching._leaked(Leak(1.0, "192.0.2.1:8443", "192.0.2.2:5", 7))
    with pytest.raises(RequestError, match="only root may clear leaks"):
        watching.clear(Peer(1, os.geteuid() + 1, 1))
    assert len(watching.status()["leaks"]) == 1
    assert watching.clear(Peer(1, os.geteuid(), 1)) == {"cleared": 1}
    assert watching.status()["leaks"] == []


def test_its_socket_needs_no_chown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit's filter of system calls has none (SystemCallFilter=~@privileged)."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    unixsock.listening_place(str(tmp_path / "s"), 0o660, None).close()


def test_a_part_that_died_or_hangs_ends_the_service(tmp_path: Path) -> None:
    watching = sentinel(tmp_path)
    watching.start()
    try:
        watching.tick()
        watching._beat = time.monotonic() - service.STUCK_S - 1
        watching._threads = watching._threads[1:]
        with pytest.raises(RuntimeError, match="'capture' has hung"):
            watching.tick()
    finally:
        watching.stop()
    deadline = time.monotonic() + 10
    while any(thread.is_alive() for thread in watching._threads) and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(RuntimeError, match="died"):
        watching.tick()


def test_without_a_capture_nothing_is_downloaded(tmp_path: Path) -> None:
    watching = sentinel(tmp_path)
    watching.start()
    try:
        deadline = time.monotonic() + 10
        while not watching.status()["targets"]["files1"]["failures"] and time.monotonic() < deadline:
            time.sleep(0.05)
        status = watching.status()
    finally:
        watching.stop()
    assert status["targets"]["files1"]["error"] == status["why"]
    assert str(status["why"]).startswith("interface lo is the loopback interface")
    assert (status["armed"], status["since"], status["targets"]["files1"]["packets"]) == (False, None, 0)
