# SPDX-License-Identifier: Apache-2.0
"""Files that we own: the plan equals the deed, a crash leaves the old file, and nobody's trap is followed."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktls_host import files
from ktls_host.errors import KtlsError
from ktls_host.files import FileSpec, atomic_write, plan_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWNER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name


def spec(content: bytes | None, mode: int = 0o644, path: str = "/etc/x.conf") -> FileSpec:
    return FileSpec(path, content, mode, OWNER, GROUP)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path


def test_create_replace_attributes_remove(root: Path) -> None:
    target = root / "etc/x.conf"
    seen = []
    for wanted in (spec(b"one\n"), spec(b"two\n"), spec(b"two\n", 0o600), FileSpec.absent("/etc/x.conf")):
        changes = plan_files([wanted], str(root))
        seen.append([change.action for change in changes])
        files.apply(changes)
        assert plan_files([wanted], str(root)) == [], "what was applied is what was planned"
        if wanted.content is not None:
            assert (target.read_bytes(), mode_of(target)) == (wanted.content, wanted.mode)
    assert seen == [["create"], ["replace"], ["attributes"], ["remove"]]
    assert os.listdir(root / "etc") == []


def test_mode_does_not_depend_on_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        files.apply(plan_files([spec(b"x", 0o664)], str(root)))
    finally:
        os.umask(before)
    assert mode_of(root / "etc/x.conf") == 0o664


def test_plan_writes_nothing(root: Path) -> None:
    plan_files([spec(b"x"), spec(b"x", path="/new/dir/y")], str(root))
    assert os.listdir(root / "etc") == []
    assert os.listdir(root) == ["etc"]


def test_missing_directories_are_made(root: Path) -> None:
    files.apply(plan_files([spec(b"x", path="/a/b/c")], str(root)))
    assert (root / "a/b/c").read_bytes() == b"x"
    assert mode_of(root / "a/b") == 0o755


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        (None, spec(b"new\n"), "", "new\n"),
        (b"old\n", spec(b"new\n"), "old\n", "new\n"),
        (b"old\n", FileSpec.absent("/etc/x.conf"), "old\n", ""),
        (b"\xff", spec(b"\xfe"), "\ufffd", "\ufffd"),
    ],
)
def test_diff(root: Path, old: bytes | None, new: FileSpec, before: str, after: str) -> None:
    if old is not None:
        atomic_write(str(root / "etc/x.conf"), old)
    diff = plan_files([new], str(root))[0].diff()
    assert (diff["before"], diff["after"]) == (before, after)
    assert diff["before_header"].startswith("/etc/x.conf")


def test_attribute_diff_shows_no_content(root: Path) -> None:
    atomic_write(str(root / "etc/x.conf"), b"secret", 0o644)
    change = plan_files([spec(b"secret", 0o600)], str(root))[0]
    assert change.diff()["before"] == f"0644 {OWNER}:{GROUP}\n"
    assert change.diff()["after"] == f"0600 {OWNER}:{GROUP}\n"
    assert "secret" not in repr(change) + str(change.diff())


@pytest.mark.parametrize("wanted", [spec(b"x"), FileSpec.absent("/etc/x.conf")], ids=["write", "remove"])
def test_symlink_is_refused_and_its_target_untouched(root: Path, wanted: FileSpec) -> None:
    (root / "victim").write_bytes(b"victim")
    (root / "etc/x.conf").symlink_to(root / "victim")
    with pytest.raises(KtlsError) as caught:
        plan_files([wanted], str(root))
    assert caught.value.code == "symlink_in_the_way"
    assert (root / "victim").read_bytes() == b"victim"


def test_dangling_symlink_is_refused(root: Path) -> None:
    (root / "etc/x.conf").symlink_to(root / "nowhere")
    with pytest.raises(KtlsError) as caught:
        plan_files([spec(b"x")], str(root))
    assert caught.value.code == "symlink_in_the_way"


def test_link_that_appears_after_the_plan_is_refused(root: Path) -> None:
    changes = plan_files([spec(b"x")], str(root))
    (root / "victim").write_bytes(b"victim")
    (root / "etc/x.conf").symlink_to(root / "victim")
    with pytest.raises(KtlsError) as caught:
        files.apply(changes)
    assert caught.value.code == "symlink_in_the_way"
    assert (root / "victim").read_bytes() == b"victim"


@pytest.mark.parametrize("wanted", [spec(b"x"), FileSpec.absent("/etc/x.conf")], ids=["write", "remove"])
def test_what_became_unsafe_after_the_plan_is_refused(root: Path, wanted: FileSpec) -> None:
    (root / "etc/x.conf").write_bytes(b"old")
    changes = plan_files([wanted], str(root))
    (root / "etc").chmod(0o777)
    with pytest.raises(KtlsError) as caught:
        files.apply(changes)
    assert caught.value.code == "unsafe_directory"
    assert (root / "etc/x.conf").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_other_things_are_refused(root: Path, kind: str) -> None:
    target = root / "etc/x.conf"
    target.mkdir() if kind == "directory" else os.mkfifo(target)
    with pytest.raises(KtlsError) as caught:
        plan_files([spec(b"x")], str(root))
    assert caught.value.code == "not_a_file"


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_directory_that_everybody_writes_to_is_refused(root: Path, mode: int) -> None:
    (root / "etc/sub").mkdir()
    (root / "etc").chmod(mode)
    with pytest.raises(KtlsError, match="chmod o-w") as caught:
        plan_files([spec(b"x", path="/etc/sub/y")], str(root))
    assert caught.value.code == "unsafe_directory"


def test_directory_above_the_root_does_not_matter(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "root").mkdir()
    assert [change.action for change in plan_files([spec(b"x")], str(tmp_path / "root"))] == ["create"]


def test_unknown_owner_is_a_change_and_named_at_apply(root: Path) -> None:
    changes = plan_files([FileSpec("/etc/x.conf", b"x", 0o644, "no-such-user-here", GROUP)], str(root))
    with pytest.raises(KtlsError, match="no-such-user-here") as caught:
        files.apply(changes)
    assert caught.value.code == "no_such_user"
    changes = plan_files([FileSpec("/etc/x.conf", b"x", 0o644, OWNER, "no-such-group-here")], str(root))
    with pytest.raises(KtlsError, match="no-such-group-here") as caught:
        files.apply(changes)
    assert caught.value.code == "no_such_group"
    assert os.listdir(root / "etc") == []


@pytest.mark.parametrize("call", ["fsync", "rename", "fchmod"])
def test_failure_leaves_the_old_file_and_no_litter(root: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    target = root / "etc/x.conf"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(KtlsError, match="No space left") as caught:
        atomic_write(str(target), b"new")
    monkeypatch.undo()
    assert caught.value.code == "write_failed"
    assert target.read_bytes() == b"old"
    assert os.listdir(root / "etc") == ["x.conf"]


def test_content_reaches_the_disk_before_the_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def spy(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def record(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return record

    for name in ("fsync", "rename", "fchmod"):
        monkeypatch.setattr(os, name, spy(name))
    atomic_write(str(root / "etc/x.conf"), b"new")
    assert calls == ["fchmod", "fsync", "rename", "fsync"]


def test_secret_is_never_readable_by_others_on_the_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.fchmod

    def spy(descriptor: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", spy)
    before = os.umask(0)
    try:
        atomic_write(str(root / "etc/x.conf"), b"secret", 0o600)
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_remove_of_nothing_is_nothing(root: Path) -> None:
    assert plan_files([FileSpec.absent("/etc/x.conf"), FileSpec.absent("/no/dir/x")], str(root)) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=st.none() | st.binary(max_size=50), new=st.binary(max_size=50))
def test_plan_is_empty_exactly_when_nothing_differs(root: Path, old: bytes | None, new: bytes) -> None:
    target = root / "etc/x.conf"
    target.unlink(missing_ok=True)
    if old is not None:
        atomic_write(str(target), old)
    changes = plan_files([spec(new)], str(root))
    assert bool(changes) == (old != new)
    files.apply(changes)
    assert target.read_bytes() == new
