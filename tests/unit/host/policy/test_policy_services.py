# SPDX-License-Identifier: Apache-2.0
"""Who still runs by an older configuration."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host.errors import KtlsError
from ktls_host.policy import services
from ktls_host.policy.services import Process

if TYPE_CHECKING:
    from tests.unit.host.policy import policyhost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import policyhost

LEVER = "policy:openssl:system"


def test_processes_are_found_by_unit_and_library(tmp_path: Path) -> None:
    host = policyhost.Host(tmp_path)
    host.process(10, "/system.slice/web.service", ["libssl.so.3", "libcrypto.so.3"], 5.0)
    host.process(11, "/system.slice/system-app.slice/app@one.service", ["libgnutls.so.30.34.2"], 6.0)
    host.process(12, "/user.slice/user-0.slice/session-3.scope", ["libssl.so.3"], 7.0)
    host.process(13, "/system.slice/plain.service", ["libcrypto.so.3"], 8.0)
    host.process(14, "/system.slice/gone.service", ["libssl.so.3 (deleted)"], 9.0)
    host.write("/proc/15/stat", "15 (half) S 1")
    found = services.scan(str(tmp_path))
    assert [(process.pid, process.unit, process.started) for process in found] == [
        (10, "web.service", 5.0),
        (11, "app@one.service", 6.0),
        (13, "plain.service", 8.0),
        (14, "gone.service", 9.0),
    ]
    assert services.users(found, "openssl") == {"web.service", "gone.service"}
    assert services.users(found, "gnutls") == {"app@one.service"}
    assert services.users(found, "openssl", frozenset({10})) == {"gone.service"}


def test_this_machine_agrees_on_what_the_fields_are() -> None:
    """The start of this process, by the kernel, lies between boot and now."""
    started = services.parse_start(Path("/proc/self/stat").read_text())
    assert started is not None
    assert 0 < started <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert {os.getpid(), os.getppid()} <= services.own_line()


OLD, NEW = 10.0, 30.0
TABLE = {
    "older": ([Process(1, "a", OLD)], {}, {"a"}),
    "newer": ([Process(1, "a", NEW)], {}, set()),
    "main is older": ([Process(1, "a", OLD), Process(2, "a", NEW)], {"a": 1}, {"a"}),
    "a child is older than the new main": ([Process(1, "a", NEW), Process(2, "a", OLD)], {"a": 1}, set()),
    "no main is known": ([Process(1, "a", NEW), Process(2, "a", OLD)], {"a": 0}, {"a"}),
    "the main has gone": ([Process(2, "a", OLD)], {"a": 1}, {"a"}),
    "another unit": ([Process(1, "b", OLD)], {}, set()),
}


@pytest.mark.parametrize(("found", "main", "stale"), TABLE.values(), ids=TABLE)
def test_older(found: list[Process], main: dict[str, int], stale: set[str]) -> None:
    assert services.older(found, ["a"], 20.0, main) == stale
    assert services.older(found, ["a"], -math.inf, main) == frozenset()


def test_notes(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert services.changed_at(LEVER, root) == -math.inf
    assert services.note_before(LEVER, root) is None
    assert services.changed_at(LEVER, root) == math.inf
    assert services.interrupted(LEVER, root)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    services.note_after(LEVER, root)
    noted = services.changed_at(LEVER, root)
    assert before < noted <= time.clock_gettime(time.CLOCK_BOOTTIME)
    again = services.note_before(LEVER, root)
    services.note_again(LEVER, again, root)
    assert services.changed_at(LEVER, root) == noted
    services.note_again(LEVER, None, root)
    assert services.changed_at(LEVER, root) == -math.inf


@pytest.mark.parametrize("into_the_tick_s", [0.0, 0.0001, 0.0099])
def test_what_started_in_the_tick_of_a_change_is_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, into_the_tick_s: float
) -> None:
    """A start is known to a hundredth of a second: a fast host starts a service and changes its policy within one."""
    clock = [50.0 + into_the_tick_s]
    monkeypatch.setattr(time, "clock_gettime", lambda _: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    services.note_after(LEVER, str(tmp_path))
    when = services.changed_at(LEVER, str(tmp_path))
    host = policyhost.Host(tmp_path)
    host.process(1, "/system.slice/before.service", [], 50.0)
    host.process(2, "/system.slice/after.service", [], clock[0])
    found = services.scan(str(tmp_path))
    assert services.older(found, ["before.service", "after.service"], when, {}) == {"before.service"}


def test_the_directory_is_private(tmp_path: Path) -> None:
    path = Path(services.private_directory(str(tmp_path)))
    assert path.stat().st_mode & 0o777 == 0o700
    path.chmod(0o777)
    with pytest.raises(KtlsError, match="not a directory that only root may write") as caught:
        services.private_directory(str(tmp_path))
    assert caught.value.code == "unsafe_directory"
    path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(KtlsError) as caught:
        services.private_directory(str(tmp_path))
    assert caught.value.code == "unsafe_directory"
