# SPDX-License-Identifier: Apache-2.0
"""Killed before and after every change that the lever makes, it is neither half done nor stuck.

After each death both ways work: back to what was there, byte for byte, and on to what was asked for.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host import gnutls, openssl_lib
from ktls_host.gnutls import GnutlsState
from ktls_host.openssl_lib import OpensslState
from ktls_host.policy import check, lever
from ktls_host.policy.targets import Request

if TYPE_CHECKING:
    from tests.unit.host.policy import policyhost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import policyhost

#: What changes a file system, besides starting a program.
CALLS = ("rename", "unlink", "rmdir", "mkdir", "fsync", "fchmod", "fchown", "utime")
GENERATED = "/etc/crypto-policies/back-ends/gnutls.config"


class Case:
    """A request on a host, and how to play the host again in a copy of its directory."""

    def __init__(self, name: str, request: Request, fedora: bool = False) -> None:
        self.name, self.request, self.fedora = name, request, fedora

    def make(self, root: Path) -> policyhost.Host:
        host = policyhost.Host(root)
        if self.fedora:
            host.fedora()
        else:
            host.debian("debian13")
            host.write("/etc/gnutls/config", "[overrides]\nmin-verification-profile = medium\n", 0o640)
        for name in ("web", "mail"):
            host.unit(f"{name}.service", "[Service]\nExecStart=/bin/x\n", libraries=("libssl.so.3",))
        return host


CASES = [
    Case("openssl system", Request("openssl", "system", ("web",))),
    Case("openssl services", Request("openssl", "service", ("web", "mail"))),
    Case("gnutls system", Request("gnutls", "system")),
    Case("gnutls service", Request("gnutls", "service", ("web",))),
    Case("openssl crypto-policies", Request("openssl", "system"), fedora=True),
    Case("gnutls crypto-policies", Request("gnutls", "system"), fedora=True),
]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: some thousand trees come and go."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="ktls-policy-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, memory: Path) -> Case:
    found: Case = request.param
    path = GENERATED if found.fedora else "/etc/gnutls/config"
    monkeypatch.setattr(gnutls, "probe", lambda root="/": GnutlsState("libgnutls.so.30", "3.8.10", True, path, None))
    monkeypatch.setattr(openssl_lib, "probe", lambda: OpensslState("libcrypto.so.3", "OpenSSL 3.5.0", 0x30500000, True))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill, not a power cut
    monkeypatch.setattr(check, "_ask", policyhost.ask_quickly(memory / "live"))
    return found


class Played:
    """One directory in which every host is played in its turn, because some files hold its path."""

    def __init__(self, base: Path) -> None:
        self.base, self.live = base, base / "live"

    def keep(self, name: str) -> None:
        shutil.copytree(self.live, self.base / name, symlinks=True)

    def back_to(self, name: str) -> None:
        shutil.rmtree(self.live)
        shutil.copytree(self.base / name, self.live, symlinks=True)

    def bring(self, request: Request) -> dict[str, Any]:
        runner: Any = policyhost.Host(self.live)
        return lever.run(request, runner=runner, root=str(self.live)).as_dict()

    def bring_until_killed(self, request: Request, nth: int) -> bool:
        """Do it in a child that kills itself at the nth point; false when it came to its end before."""
        child = os.fork()
        if child == 0:
            try:
                runner: Any = _mortal(policyhost.Host(self.live), nth)
                lever.run(request, runner=runner, root=str(self.live))
                os._exit(0)
            except BaseException as error:
                os.write(2, repr(error).encode())
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return True
        assert os.WEXITSTATUS(status) == 0
        return False

    def outside(self) -> Any:
        """What others see: files but for their times, records, and what systemd would give the services."""
        host = policyhost.Host(self.live)
        found = {path: entry[:5] for path, entry in host.snapshot().items() if path != "var/lib/ktls-levers"}
        return found, [host.loaded_environment(f"{name}.service") for name in ("web", "mail")]

    def exactly(self) -> Any:
        """The same with times."""
        host = policyhost.Host(self.live)
        found = {path: entry for path, entry in host.snapshot().items() if path != "var/lib/ktls-levers"}
        return found, [host.loaded_environment(f"{name}.service") for name in ("web", "mail")]


def _mortal(host: policyhost.Host, nth: int) -> policyhost.Host:
    passed = itertools.count(1)

    def point() -> None:
        if next(passed) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if playing:
                return real(*arguments, **named)
            point()
            result = real(*arguments, **named)
            point()
            return result

        return call

    # What the played host itself does, it does whole.
    playing: list[bool] = []
    change = host.run
    for name in CALLS:
        setattr(os, name, around(getattr(os, name)))

    def run(argv: Any, stdin: str | None = None) -> Any:
        dies = argv[:2] != ("systemctl", "show") and argv[0] != "env"
        if dies:
            point()
        playing.append(True)
        result = change(argv, stdin)
        playing.pop()
        if dies:
            point()
        return result

    host.run = run  # type: ignore[method-assign]
    return host


@pytest.mark.parametrize("present", [True, False], ids=["present", "absent"])
def test_killed_anywhere_it_goes_both_ways(case: Case, memory: Path, present: bool) -> None:
    request = replace(case.request, restart_ok=True)
    absent = replace(request, present=False)
    played = Played(memory)
    case.make(played.live)
    played.keep("original")
    original = played.exactly()
    played.bring(request)
    played.keep("wanted")
    wanted = played.outside()
    points = 0
    for nth in itertools.count(1):
        played.back_to("original" if present else "wanted")
        if not played.bring_until_killed(request if present else absent, nth):
            break
        points += 1
        played.keep("killed")
        played.bring(absent)
        assert played.exactly() == original, nth
        assert played.bring(absent)["changed"] is False, nth
        played.back_to("killed")
        played.bring(request)
        assert played.outside() == wanted, nth
        assert played.bring(request)["changed"] is False, nth
        played.bring(absent)
        assert played.exactly() == original, nth
        shutil.rmtree(memory / "killed")
    assert points > 20
    assert (played.outside() == wanted) if present else (played.exactly() == original)
