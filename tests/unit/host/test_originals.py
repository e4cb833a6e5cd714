# SPDX-License-Identifier: Apache-2.0
"""The record of what was there: durable before any change, exact when put back, and never over somebody's edit."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktls_host import files, originals
from ktls_host.errors import KtlsError
from ktls_host.files import FileSpec

if TYPE_CHECKING:
    from collections.abc import Callable

A, B, NEW = "/etc/a.conf", "/etc/b.conf", "/etc/deep/er/new.conf"
LEVER = "policy:openssl:system"
OURS = (FileSpec(A, b"ours a\n"), FileSpec(B, b"ours b\n", 0o600), FileSpec(NEW, b"ours new\n"))
KILLED = 77


def snapshot(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below /etc: kind, mode, owner, content, time of files."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted((root / "etc").rglob("*")):
        status = path.lstat()
        entry: tuple[Any, ...] = (
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
        )
        if path.is_file():
            entry = (*entry, path.read_bytes(), status.st_mtime_ns)
        found[str(path.relative_to(root))] = entry
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "etc/a.conf").write_bytes(b"theirs a\n")
    (tmp_path / "etc/a.conf").chmod(0o640)
    os.utime(tmp_path / "etc/a.conf", ns=(1_000_000_000, 1_000_000_001))
    return tmp_path


def present(root: Path, specs: tuple[FileSpec, ...] = OURS, facts: dict[str, Any] | None = None) -> bool:
    with originals.lock(str(root)):
        adoption = originals.plan(LEVER, specs, facts, str(root))
        originals.commit(adoption)
        return bool(adoption.changes)


def absent(root: Path, *, keep: bool = False) -> originals.Restoration:
    with originals.lock(str(root)):
        restoration = originals.plan_restore(LEVER, str(root), keep_edited=keep)
        originals.restore_files(restoration)
        originals.forget(restoration)
        return restoration


def as_wanted(root: Path) -> bool:
    return not files.plan_files(OURS, str(root))


def test_back_to_the_last_bit(root: Path) -> None:
    before = snapshot(root)
    assert present(root) and as_wanted(root)
    assert not present(root), "the second time there is nothing to do"
    restoration = absent(root)
    assert snapshot(root) == before
    assert {diff["after_header"] for diff in restoration.diffs} >= {f"{A} 0640 0:0", NEW}
    assert not list((root / "var/lib/ktls-levers").glob("*"))
    assert absent(root).record is None, "and again is nothing to do"


def test_extended_attributes_come_back(root: Path) -> None:
    target = root / "etc/a.conf"
    try:
        os.setxattr(target, "user.label", b"theirs")
    except OSError as error:
        pytest.fail(f"the file system of the test directory has no user xattrs ({error})")
    present(root)
    assert "user.label" not in os.listxattr(target)
    absent(root)
    assert os.getxattr(target, "user.label") == b"theirs"


def test_the_first_state_is_the_original_one(root: Path) -> None:
    before = snapshot(root)
    present(root, facts={"loaded": False})
    present(root, (FileSpec(A, b"ours, second edition\n"),), {"loaded": True})
    record = originals.load(LEVER, str(root))
    assert record is not None and record.facts == {"loaded": False}
    absent(root)
    assert snapshot(root) == before


def test_a_directory_that_others_use_stays(root: Path) -> None:
    present(root)
    (root / "etc/deep/er/theirs").write_text("x")
    absent(root)
    assert not (root / NEW.lstrip("/")).exists() and (root / "etc/deep/er/theirs").exists()


@pytest.mark.parametrize("how", ["other", "removed", "emptied"])
def test_an_edit_is_left_alone_and_the_rest_goes_back(root: Path, how: str) -> None:
    before = snapshot(root)
    present(root)
    target = root / "etc/b.conf"
    if how == "removed":
        target.write_bytes(b"then")
        (root / "etc/a.conf").unlink()
        edited = A
    else:
        target.write_bytes(b"" if how == "emptied" else b"edited\n")
        edited = B
    now = snapshot(root)
    with pytest.raises(KtlsError) as refused:
        originals.plan(LEVER, OURS, root=str(root))
    assert refused.value.code == "edited_meanwhile" and edited in refused.value.message
    restoration = absent(root)
    assert edited in restoration.edited
    with pytest.raises(KtlsError, match=edited):
        restoration.refuse_edited()
    name = edited.lstrip("/")
    assert snapshot(root).get(name) == now.get(name), "the edited file is as the other left it"
    assert not (root / NEW.lstrip("/")).exists(), "what nobody edited went back"
    left = originals.load(LEVER, str(root))
    assert left is not None and [found.original.path for found in left.files] == list(restoration.edited)
    # Who takes the edit out by hand is done; who wants to keep it says so.
    if how == "other":
        target.unlink()
        assert absent(root).edited == () and snapshot(root) == before
    else:
        absent(root, keep=True)
    assert originals.load(LEVER, str(root)) is None


def test_a_file_that_is_as_wanted_already_may_have_been_edited(root: Path) -> None:
    """Somebody wrote what we would write: nothing to do, and still what was there first comes back."""
    before = snapshot(root)
    present(root)
    assert not present(root)
    absent(root)
    assert snapshot(root) == before


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[]", b'{"schema": 2}', b"\xff", b'{"schema":1,"lever":"x","facts":{},"files":[{"path":"/etc/a"}]}'],
)
def test_a_record_that_cannot_be_read_stops_everything(root: Path, raw: bytes) -> None:
    present(root)
    path = root / originals.record_path(LEVER).lstrip("/")
    path.write_bytes(raw)
    now = snapshot(root)
    for action in (lambda: present(root, (FileSpec(A, b"more\n"),)), lambda: absent(root)):
        with pytest.raises(KtlsError) as refused:
            action()
        assert refused.value.code == "record_unreadable" and LEVER in refused.value.message
    assert snapshot(root) == now and path.read_bytes() == raw


def test_traps_are_refused_before_anything_is_recorded(root: Path) -> None:
    (root / "etc/b.conf").symlink_to("a.conf")
    before = snapshot(root)
    with pytest.raises(KtlsError) as refused:
        present(root)
    assert refused.value.code == "symlink_in_the_way"
    (root / "etc/b.conf").unlink()
    (root / "etc").chmod(0o777)
    with pytest.raises(KtlsError) as refused:
        present(root)
    assert refused.value.code == "unsafe_directory"
    (root / "etc").chmod(0o755)
    del before["etc/b.conf"]
    assert snapshot(root) == before and originals.load(LEVER, str(root)) is None


def test_levers_names_what_has_something_to_put_back(root: Path) -> None:
    assert originals.levers(str(root)) == ()
    present(root)
    (root / "var/lib/ktls-levers/broken.json").write_text("x")
    assert originals.levers(str(root)) == ("broken.json", LEVER)


@pytest.mark.parametrize("name", ["policy:gnutls:service:a@b.service", "offload:../../etc/passwd", "x" * 40, "ü/ "])
def test_record_names_stay_in_their_directory(name: str) -> None:
    path = originals.record_path(name)
    assert os.path.dirname(path) == originals.DIRECTORY and os.path.basename(path) == path.rpartition("/")[2]


@given(st.text(min_size=1), st.text(min_size=1))
def test_record_names_do_not_collide(one: str, other: str) -> None:
    assert (originals.record_path(one) == originals.record_path(other)) == (one == other)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    content=st.none() | st.binary(max_size=200),
    mode=st.sampled_from([0o600, 0o640, 0o644, 0o755, 0o4755]),
    ours=st.none() | st.binary(max_size=200),
)
def test_any_file_comes_back(tmp_path: Path, content: bytes | None, mode: int, ours: bytes | None) -> None:
    target = tmp_path / "etc/x"
    target.parent.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    if content is not None:
        target.write_bytes(content)
        target.chmod(mode)
    before = snapshot(tmp_path)
    present(tmp_path, (FileSpec("/etc/x", ours),))
    absent(tmp_path)
    assert snapshot(tmp_path) == before


def _die_at(step: int, action: Callable[[], Any]) -> bool:
    """Run ``action`` in a child that dies at its ``step``-th call that changes a disk; True when it got to its end."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os._exit(KILLED)
                return real(*arguments, **named)

            return call

        for name in ("rename", "unlink", "rmdir", "fsync", "makedirs", "fchmod", "fchown", "utime", "setxattr", "open"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == 0


def test_killed_between_any_two_steps(tmp_path: Path) -> None:
    """Whoever dies leaves a host that can be put back, and one that can be brought to the end."""
    for back in (False, True):
        step = 0
        finished = False
        while not finished:
            step += 1
            assert step < 200
            root = tmp_path / f"{back}-{step}"
            (root / "etc").mkdir(parents=True)
            (root / "etc/a.conf").write_bytes(b"theirs a\n")
            os.setxattr(root / "etc/a.conf", "user.label", b"theirs")
            before = snapshot(root)
            if back:
                present(root)
                finished = _die_at(step, lambda root=root: absent(root))  # type: ignore[misc]
            else:
                finished = _die_at(step, lambda root=root: present(root))  # type: ignore[misc]
            for path in ("etc/a.conf", "etc/b.conf"):
                if (root / path).exists():
                    assert (root / path).read_bytes() in (b"theirs a\n", b"ours a\n", b"ours b\n"), "never half a file"
            if step % 2:
                present(root)
                assert as_wanted(root)
            absent(root)
            assert snapshot(root) == before, f"killed at step {step} of {'absent' if back else 'present'}"
            assert originals.load(LEVER, str(root)) is None
        assert step > 10, "the steps were really counted"


def test_one_at_a_time(root: Path) -> None:
    """The second waits, and gives up with the name of the first."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nsys.path.insert(0, 'agent')\nfrom ktls_host import originals\n"
            f"with originals.lock({str(root)!r}):\n print('held', flush=True)\n sys.stdin.read()\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert holder.stdout and holder.stdin and holder.stdout.readline() == b"held\n"
    started = time.monotonic()
    with pytest.raises(KtlsError) as refused, originals.lock(str(root), wait_s=0.2):
        pass
    assert refused.value.code == "levers_busy" and str(holder.pid) in refused.value.message
    assert time.monotonic() - started >= 0.2
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    with originals.lock(str(root), wait_s=0.2):
        pass  # the kernel let go with its holder's life


def test_the_record_is_for_root_alone(root: Path) -> None:
    present(root)
    path = root / originals.record_path(LEVER).lstrip("/")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_bytes())["lever"] == LEVER
