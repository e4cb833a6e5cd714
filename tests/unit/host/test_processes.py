# SPDX-License-Identifier: Apache-2.0
"""Who maps a TLS library, and in which unit: read from /proc as real kernels and systemd write it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import processes
from ktls_host.processes import TlsProcess

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

MAPS = "7f11a2e00000-7f11a2e1d000 r--p 00000000 fe:01 1835 /usr/lib/x86_64-linux-gnu/"


@pytest.mark.parametrize(
    ("system", "python"),
    [("debian12", "python3.11"), ("debian13", "python3.13"), ("debian13-backports", "python3.13")],
)
def test_recorded_systems(tmp_path: Path, system: str, python: str) -> None:
    found = processes.probe(systems.tree(system, tmp_path))
    assert [process.pid for process in found] == sorted(process.pid for process in found)
    assert {(process.program, process.unit, process.libraries) for process in found} == {
        (f"/usr/bin/{python}", "ktls-recording-openssl.service", ("openssl",)),
        (f"/usr/bin/{python}", "ktls-recording-gnutls.service", ("gnutls",)),
    }


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("libssl.so.3", ("openssl",)),
        ("libssl.so.1.1", ("openssl",)),
        ("libgnutls.so.30.40.3", ("gnutls",)),
        ("libssl.so.3 (deleted)", ("openssl",)),  # the library was updated, the program was not restarted
        ("libssl3.so", ()),  # of NSS
        ("libcrypto.so.3", ()),  # it hashes or signs, but speaks no TLS
        ("libgnutlsxx.so.30", ()),
        ("mylibssl.so.3", ()),
    ],
)
def test_parse_maps(name: str, libraries: tuple[str, ...]) -> None:
    assert processes.parse_maps(f"{MAPS}{name}\n7ffc4f5e0000-7ffc4f601000 rw-p 00000000 00:00 0 [stack]\n") == libraries


def test_both_libraries() -> None:
    assert processes.parse_maps(f"{MAPS}libssl.so.3\n{MAPS}libgnutls.so.30\n{MAPS}libssl.so.3\n") == (
        "gnutls",
        "openssl",
    )


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/system.slice/system-getty.slice/getty@tty1.service\n", "getty@tty1.service"),
        ("0::/system.slice/nginx.service/worker/3\n", "nginx.service"),
        (r"0::/system.slice/dev\x2dcache.service" + "\n", r"dev\x2dcache.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/syncthing.service\n", "syncthing.service"),
        ("0::/user.slice/user-0.slice/user@0.service/init.scope\n", "user@0.service"),
        ("0::/user.slice/user-0.slice/session-4.scope\n", None),
        ("0::/machine.slice/libpod-0a1b2c.scope/container\n", None),
        ("0::/system.slice/nginx.servicex\n", None),
        ("0::/\n", None),
        ("12:cpu,cpuacct:/docker/0a1b\n1:name=systemd:/system.slice/a.service\n0::/\n", "a.service"),  # version 1
        ("12:devices:/system.slice/other.service\n", None),
        ("0::/system.slice/a:b.service\n", "a:b.service"),
        ("", None),
    ],
)
def test_parse_cgroup(text: str, unit: str | None) -> None:
    assert processes.parse_cgroup(text) == unit


@given(st.text())
def test_parsers_never_raise(text: str) -> None:
    assert set(processes.parse_maps(text)) <= {"openssl", "gnutls"}
    assert "/" not in (processes.parse_cgroup(text) or "")


@given(st.text(alphabet=":/.-service\n", max_size=60))
def test_a_unit_is_part_of_the_text(text: str) -> None:
    unit = processes.parse_cgroup(text)
    assert unit is None or (unit.endswith(".service") and unit in text)


def process(
    root: Path, pid: int, *, exe: str | None = None, comm: str | None = None, maps: str = "libssl.so.3"
) -> None:
    directory = root / "proc" / str(pid)
    directory.mkdir(parents=True)
    (directory / "maps").write_text(f"{MAPS}{maps}\n")
    if exe is not None:
        (directory / "exe").symlink_to(exe)
    if comm is not None:
        (directory / "comm").write_text(comm)


def test_what_is_hidden_is_left_out_or_named_as_far_as_known(tmp_path: Path) -> None:
    """As an ordinary user sees others: no maps; a program that was updated; one that just ended."""
    process(tmp_path, 20, exe="/usr/sbin/nginx (deleted)")
    process(tmp_path, 3, comm="stunnel4\n")
    process(tmp_path, 100)
    process(tmp_path, 7, exe="/usr/bin/ls", maps="libc.so.6")
    (tmp_path / "proc/9").mkdir()
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "proc/20x").mkdir()
    assert processes.probe(str(tmp_path)) == (
        TlsProcess(3, "stunnel4", None, ("openssl",)),
        TlsProcess(20, "/usr/sbin/nginx", None, ("openssl",)),
        TlsProcess(100, "unknown", None, ("openssl",)),
    )


def test_no_proc(tmp_path: Path) -> None:
    assert processes.probe(str(tmp_path)) == ()


def test_this_host() -> None:
    """A real process that maps libssl is found; the one that asks is not, though it maps it too."""
    ctypes.CDLL("libssl.so.3")
    code = "import ssl, sys; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
        assert held.stdout is not None and held.stdin is not None
        held.stdout.readline()
        found = {each.pid: each for each in processes.probe()}
        held.stdin.close()
    assert found[held.pid].libraries == ("openssl",)
    assert found[held.pid].program == os.path.realpath(sys.executable)
    assert os.getpid() not in found
