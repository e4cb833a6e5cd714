# SPDX-License-Identifier: Apache-2.0
"""The listing that undeploy is proved by sees whatever a deploy could leave; what it leaves out is written down."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.undeploy.guest import listing


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("etc/a", "etc/b", "usr/bin/tool", "var/log/syslog", "proc/1/stat", "run/lock/x", "run/ktls/off"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "etc/link").symlink_to("a")
    (tmp_path / "etc/empty").mkdir()
    return tmp_path


def replaced(path: Path) -> Path:
    """What was there is gone."""
    path.unlink()
    return path


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a file more": ("/etc/left", lambda root: (root / "etc/left").write_text("")),
    "a directory more": ("/var/lib", lambda root: (root / "var/lib").mkdir()),
    "a dangling link more": ("/etc/x", lambda root: (root / "etc/x").symlink_to("/nowhere")),
    "a socket more": ("/etc/s", lambda root: os.mknod(root / "etc/s", 0o140600)),
    "a hidden file more": ("/etc/.b.0123.tmp", lambda root: (root / "etc/.b.0123.tmp").write_text("x")),
    "a file less": ("/etc/b", lambda root: (root / "etc/b").unlink()),
    "another text of that size": ("/etc/a", lambda root: (root / "etc/a").write_text("texT")),
    "another mode": ("/usr/bin/tool", lambda root: (root / "usr/bin/tool").chmod(0o755)),
    "another mode of a directory": ("/etc/empty", lambda root: (root / "etc/empty").chmod(0o700)),
    "a set-user-ID bit": ("/usr/bin/tool", lambda root: (root / "usr/bin/tool").chmod(0o4644)),
    "another target": ("/etc/link", lambda root: replaced(root / "etc/link").symlink_to("b")),
    "a directory instead": ("/etc/b", lambda root: replaced(root / "etc/b").mkdir()),
    "a runtime file of ours": ("/run/ktls-agent", lambda root: (root / "run/ktls-agent").write_text("")),
    "one of ours among what is volatile": ("/var/log/ktls", lambda root: (root / "var/log/ktls").mkdir()),
    "one of systemd about us": ("/run/lock/ktls.x", lambda root: (root / "run/lock/ktls.x").write_text("")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found(place: Path, change: str) -> None:
    before = listing.listing(str(place))
    assert listing.differences(before, listing.listing(str(place))) == []
    path, work = CHANGES[change]
    work(place)
    said = listing.differences(before, listing.listing(str(place)))
    assert [line.split(":")[0] for line in said] == [path]


def test_another_owner_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played, for only root can give a file away."""
    before = listing.listing(str(place))
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        found = real(path)
        if not path.endswith("/etc/a"):
            return found
        return os.stat_result((*found[:4], 4242, *found[5:]))

    monkeypatch.setattr(os, "lstat", lstat)
    (said,) = listing.differences(before, listing.listing(str(place)))
    assert "4242(?)" in said, "and that it belongs to nobody"


def test_an_attribute_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played, for not every file system has them."""
    before = listing.listing(str(place))
    monkeypatch.setattr(os, "listxattr", lambda path, **_more: ["user.ktls"] if path.endswith("/etc/a") else [])
    monkeypatch.setattr(os, "getxattr", lambda _path, _name, **_more: b"1")
    (said,) = listing.differences(before, listing.listing(str(place)))
    assert said.startswith("/etc/a: ") and "user.ktls" in said


@pytest.mark.parametrize("call", ["listdir", "readlink", "listxattr"])
def test_what_cannot_be_read_is_not_the_same_as_before(place: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fails(*_given: object, **_more: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="Input/output error"):
        listing.listing(str(place))


def test_time_and_what_is_volatile_do_not_count(place: Path) -> None:
    before = listing.listing(str(place))
    (place / "var/log/syslog").write_text("more")
    (place / "var/log/other").write_text("")
    (place / "proc/2").mkdir()
    (place / "run/lock/y").write_text("")
    os.utime(place / "etc/a", (0, 0))
    assert listing.differences(before, listing.listing(str(place))) == []


def test_each_exception_has_a_reason_and_hides_nothing_of_ours() -> None:
    assert all(len(reason) > 10 for reason in listing.VOLATILE.values())
    assert not [path for path in listing.VOLATILE if "ktls" in path]
    for path in ("/etc", "/usr", "/var/lib", "/var/lib/systemd", "/run", "/tmp", "/var/tmp"):
        assert path not in listing.VOLATILE


def test_runs_alone_on_a_host(place: Path) -> None:
    command = [sys.executable, "-IS", str(Path(listing.__file__)), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"/etc/a": ["-", "0644"' in done.stdout


def test_a_service_that_was_restarted_has_another_private_directory(place: Path) -> None:
    """Its name is random; that it is there, and what is in it, is seen."""
    there = place / "tmp" / f"systemd-private-{'0a' * 16}-lighttpd.service-COnnnX"
    (there / "tmp").mkdir(parents=True)
    before = listing.listing(str(place))
    there.rename(there.with_name(there.name[:-6] + "F9T17U"))
    assert listing.differences(before, listing.listing(str(place))) == []
    again = there.with_name(there.name[:-6] + "F9T17U")
    (again / "tmp/left").write_text("")
    said = listing.differences(before, listing.listing(str(place)))
    assert [line.split(":")[0].rpartition("/")[2] for line in said] == ["left"]
