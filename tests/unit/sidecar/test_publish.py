# SPDX-License-Identifier: Apache-2.0
"""ktls-publish: old or new content whole, whenever it is killed and whatever fails; nothing is left lying about."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktls_host.errors import KtlsError
from ktls_sidecar import publish, seal, staging
from ktls_sidecar.publish import main

OLD, NEW = "old content", "new content, longer"


class Attributes:
    """The attributes of files, played: this host may allow neither. By inode."""

    def __init__(self) -> None:
        self.flags: dict[int, int] = {}
        self.verity_error = self.immutable_error = 0

    def get(self, fd: int) -> int:
        return self.flags.get(os.fstat(fd).st_ino, 0)

    def set_immutable(self, fd: int, value: bool) -> None:
        if self.immutable_error:
            raise OSError(self.immutable_error, os.strerror(self.immutable_error))
        self._set(fd, seal.FS_IMMUTABLE_FL, value)

    def enable_verity(self, fd: int) -> None:
        assert os.O_ACCMODE & int(Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:\t")[1][:9], 8) == 0
        assert stat.S_IMODE(os.fstat(fd).st_mode) & 0o200  # or the kernel says EACCES
        if self.verity_error:
            raise OSError(self.verity_error, os.strerror(self.verity_error))
        self._set(fd, seal.FS_VERITY_FL, True)

    def _set(self, fd: int, bit: int, value: bool) -> None:
        inode = os.fstat(fd).st_ino
        self.flags[inode] = self.flags.get(inode, 0) | bit if value else self.flags.get(inode, 0) & ~bit

    def forget(self, path: str) -> None:
        """A file is gone; its inode number may come again."""
        if os.path.lexists(path):
            self.flags.pop(os.lstat(path).st_ino, None)

    def of(self, path: str | Path) -> int:
        return self.flags.get(os.lstat(path).st_ino, 0)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Attributes:
    """Verity is off; immutable files behave as such."""
    attributes = Attributes()
    attributes.verity_error = errno.EOPNOTSUPP
    monkeypatch.setattr(seal, "get_flags", attributes.get)
    monkeypatch.setattr(seal, "set_immutable", attributes.set_immutable)
    monkeypatch.setattr(seal, "enable_verity", attributes.enable_verity)
    rename, unlink = os.rename, os.unlink

    def guarded_rename(source: str, target: str) -> None:
        for path in (source, target):
            if os.path.lexists(path) and attributes.of(path) & seal.FS_IMMUTABLE_FL:
                raise PermissionError(errno.EPERM, "immutable", path)
        attributes.forget(target)
        rename(source, target)

    def guarded_unlink(path: str) -> None:
        if os.path.lexists(path) and attributes.of(path) & seal.FS_IMMUTABLE_FL:
            raise PermissionError(errno.EPERM, "immutable", path)
        attributes.forget(path)
        unlink(path)

    monkeypatch.setattr(os, "rename", guarded_rename)
    monkeypatch.setattr(os, "unlink", guarded_unlink)
    return attributes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text(NEW)
    path.chmod(0o664)
    os.utime(path, (1000, 1000))
    return path


@pytest.fixture
def web(tmp_path: Path) -> Path:
    path = tmp_path / "web"
    path.mkdir()
    return path


def litter(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*") if path.name.startswith(".ktls-publish.")]


def fail(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Run the command, which must fail by one line."""
    assert main([str(word) for word in argv]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ktls-publish: ")
    return line


# --- one file ------------------------------------------------------------------------------------------------


def test_a_new_file(web: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), str(web / "f"), "--seal", "none"]) == 0
    assert capsys.readouterr().out == f"published {web}/f (not sealed: as asked)\n"
    assert (web / "f").read_text() == NEW
    status = (web / "f").stat()
    assert stat.S_IMODE(status.st_mode) == 0o444
    assert status.st_mtime == 1000
    assert os.listdir(web) == ["f"]


def test_replacing_is_another_inode(web: Path, source: Path) -> None:
    (web / "f").write_text(OLD)
    with (web / "f").open() as reader:
        publish.publish_file(str(source), str(web / "f"), "none")
        assert reader.read() == OLD
    assert (web / "f").read_text() == NEW


def test_into_a_directory(web: Path, source: Path) -> None:
    for destination in (f"{web}", f"{web}/"):
        publish.publish_file(str(source), destination, "none")
        assert (web / "source").read_text() == NEW


def test_what_the_server_cannot_read_is_said(web: Path, source: Path) -> None:
    source.chmod(0o600)
    assert "0400" in publish.publish_file(str(source), str(web / "f"), "none")[1]


def test_auto_takes_verity_then_immutable_then_none(web: Path, source: Path, played: Attributes) -> None:
    played.verity_error = 0
    assert publish.publish_file(str(source), str(web / "f")) == [f"published {web}/f (sealed: fs-verity)"]
    assert played.of(web / "f") == seal.FS_VERITY_FL
    played.verity_error = errno.ENOTTY
    assert publish.publish_file(str(source), str(web / "f")) == [f"published {web}/f (sealed: immutable)"]
    assert played.of(web / "f") == seal.FS_IMMUTABLE_FL
    (said,) = publish.publish_file(str(source), str(web / "f"))  # over a sealed one
    assert "sealed: immutable" in said
    assert played.of(web / "f") == seal.FS_IMMUTABLE_FL
    played.immutable_error = errno.EPERM
    (said,) = publish.publish_file(str(source), str(web / "g"))
    assert "not sealed: no fs-verity" in said
    assert "CAP_LINUX_IMMUTABLE" in said


@pytest.mark.parametrize("how", ["verity", "immutable"])
def test_a_seal_that_was_asked_for_and_cannot_be(
    web: Path, source: Path, played: Attributes, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    played.immutable_error = errno.EPERM
    (web / "f").write_text(OLD)
    assert "nothing was published" in fail(capsys, source, web / "f", "--seal", how)
    assert (web / "f").read_text() == OLD
    assert litter(web) == []


def test_no_room_for_the_tree_is_a_failure_and_no_reason_to_do_without(
    web: Path, source: Path, played: Attributes, capsys: pytest.CaptureFixture[str]
) -> None:
    played.verity_error = errno.ENOSPC
    assert "No space left" in fail(capsys, source, web / "f")
    assert os.listdir(web) == []


def test_an_immutable_file_and_no_privilege(
    web: Path, source: Path, played: Attributes, capsys: pytest.CaptureFixture[str]
) -> None:
    (web / "f").write_text(OLD)
    played.flags[(web / "f").stat().st_ino] = seal.FS_IMMUTABLE_FL
    played.immutable_error = errno.EPERM
    assert "run as root" in fail(capsys, source, web / "f")
    assert (web / "f").read_text() == OLD
    assert litter(web) == []


def test_a_failed_rename_seals_the_old_file_again(
    web: Path, source: Path, played: Attributes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (web / "f").write_text(OLD)
    played.flags[(web / "f").stat().st_ino] = seal.FS_IMMUTABLE_FL

    def broken(source: str, target: str) -> None:
        raise OSError(errno.EIO, "broken", source)

    monkeypatch.setattr(os, "rename", broken)
    assert "broken" in fail(capsys, source, web / "f")
    assert played.of(web / "f") == seal.FS_IMMUTABLE_FL
    assert (web / "f").read_text() == OLD
    assert litter(web) == []


def test_a_source_that_is_written_to_meanwhile(
    web: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = staging._copy

    def slowly(reader: int, writer: int) -> None:
        copy(reader, writer)
        source.write_text("x")

    monkeypatch.setattr(staging, "_copy", slowly)
    assert "written to while it was read" in fail(capsys, source, web / "f")
    assert os.listdir(web) == []


def test_refusals_are_one_line_and_leave_nothing(
    web: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (web / "dir").mkdir()
    (web / "dir" / "source").mkdir()
    (web / "link").symlink_to("/etc/passwd")
    os.mkfifo(web / "fifo")
    before = sorted(os.listdir(web))
    for words, said in (
        ((tmp_path / "missing", web / "f"), "No such file"),
        ((source, tmp_path / "nowhere" / "f"), "No such file"),
        ((source, web / "link"), "is a symbolic link"),
        ((source, web / "fifo"), "is a special file"),
        ((source, web / "dir"), "is a directory"),
        ((web / "fifo", web / "f"), "not a regular file"),
        ((web, web / "f"), "use -r"),
        ((source, "-r", web / "f"), "leave out -r"),
        ((web, "-r", web / "dir" / "x"), "lies inside"),
        (("--remove", web / "missing"), "No such file"),
        (("--remove", web / "dir"), "use -r"),
    ):
        assert said in fail(capsys, *words)
    assert sorted(os.listdir(web)) == before


@pytest.mark.parametrize("words", [[], ["a"], ["a", "b", "c"], ["--remove", "a", "b"], ["--seal", "wax", "a", "b"]])
def test_usage(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_order_of_steps(web: Path, source: Path, played: Attributes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durable before it is seen, and the immutable attribute only around the rename."""
    steps: list[str] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        steps.append("fsync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(staging, "reached", steps.append)
    publish.publish_file(str(source), str(web / "f"))
    begin = ["created", "fsync file", "written", "fsync file", "staged"]
    end = ["renamed", "fsync directory", "directory synced", "fsync file", "sealed"]
    assert steps == [*begin, *end]
    steps.clear()
    publish.publish_file(str(source), str(web / "f"))
    assert steps == [*begin, "unsealed", *end]
    steps.clear()
    played.verity_error = 0
    publish.publish_file(str(source), str(web / "g"))
    assert steps.index("verity") < steps.index("fsync file", 2) < steps.index("renamed")
    assert "sealed" not in steps


# --- killed --------------------------------------------------------------------------------------------------

STEPS = ["created", "written", "staged", "renamed", "directory synced"]


def _killed_at(step: str, source: str, destination: str) -> None:
    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    staging.reached = die
    publish.publish_file(source, destination, "none")


def kill_at(step: str, source: Path, destination: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed_at, args=(step, str(source), str(destination)))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step(web: Path, source: Path, step: str) -> None:
    (web / "f").write_text(OLD)
    kill_at(step, source, web / "f")
    assert (web / "f").read_text() == (OLD if STEPS.index(step) < STEPS.index("renamed") else NEW)
    left = litter(web)
    assert bool(left) == (STEPS.index(step) < STEPS.index("renamed"))
    # Whatever is published there next sweeps it.
    publish.publish_file(str(source), str(web / "another"), "none")
    assert sorted(os.listdir(web)) == ["another", "f"]


def test_litter_may_be_immutable(web: Path, source: Path, played: Attributes) -> None:
    path = web / f".ktls-publish.{'0' * 16}"
    path.write_text("x")
    played.flags[path.stat().st_ino] = seal.FS_IMMUTABLE_FL
    (web / f".ktls-publish.{'1' * 16}").mkdir()
    (web / f".ktls-publish.{'1' * 16}" / "f").write_text("x")
    (web / f".ktls-publish.{'2' * 16}").symlink_to("x")
    (web / ".ktls-publish.mine").write_text("not ours")
    publish.publish_file(str(source), str(web / "f"), "none")
    assert sorted(os.listdir(web)) == [".ktls-publish.mine", "f"]


def test_two_at_a_time(web: Path, tmp_path: Path) -> None:
    """They wait for each other, and neither sweeps the other's file."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        source = tmp_path / f"source{number}"
        source.write_text(str(number) * 1000)
        try:
            for turn in range(5):
                publish.publish_file(str(source), str(web / "same"), "none")
                publish.publish_file(str(source), str(web / f"{number}-{turn}"), "none")
        except (KtlsError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(os.listdir(web)) == 16
    assert len(set((web / "same").read_text())) == 1


def test_busy(web: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(staging, "_LOCK_WAIT_S", 0.2)
    with staging.locked(str(web)):
        assert "another ktls-publish" in fail(capsys, source, web / "f")
    publish.publish_file(str(source), str(web / "f"), "none")


# --- trees ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / ".git").mkdir()
    (tree / ".git" / "config").write_text("hidden")
    (tree / ".hidden").write_text("hidden")
    (tree / "f").write_text("f")
    (tree / "a" / "g").write_text("g")
    (tree / "a" / "b" / "h").write_text("h")
    (tree / "latest").symlink_to("a/g")
    (tree / "dirlink").symlink_to("a")
    return tree


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


PUBLISHED = ["a", "a/b", "a/b/h", "a/g", "dirlink", "f", "latest"]


def test_tree(tree: Path, web: Path, played: Attributes) -> None:
    said = publish.publish_tree(str(tree), str(web / "site"))
    assert said[0] == f"published 3 files and 2 links below {web}/site"
    assert said[1] == "3 files sealed: immutable"
    assert said[2].startswith("2 names with a leading dot were left out")
    assert names(web / "site") == PUBLISHED
    assert os.readlink(web / "site" / "latest") == "a/g"
    assert all(played.of(web / "site" / name) for name in ("f", "a/g", "a/b/h"))
    (tree / "f").write_text("f2")
    (tree / "latest").unlink()
    (tree / "latest").symlink_to("f")
    (web / "site" / "kept").write_text("kept")
    publish.publish_tree(str(tree), str(web / "site"))
    assert (web / "site" / "f").read_text() == (web / "site" / "latest").read_text() == "f2"
    assert names(web / "site") == sorted([*PUBLISHED, "kept"])


def test_a_tree_that_fails_leaves_all_as_it_was(
    tree: Path, web: Path, played: Attributes, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tree / "z")
    assert "not a regular file" in fail(capsys, "-r", tree, web / "new" / "site")
    assert names(web) == []
    (web / "f").write_text(OLD)
    assert "not a regular file" in fail(capsys, "-r", tree, web)
    assert names(web) == ["f"]
    assert (web / "f").read_text() == OLD


def test_a_tree_that_fails_while_it_is_put_in_place(
    tree: Path, web: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file is old or new, it is said how far it went, and once more cures it."""
    rename = os.rename

    def broken(source: str, target: str) -> None:
        if target.endswith("/g"):
            raise OSError(errno.EIO, "broken", source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", broken)
        assert "3 of 5 files were published before" in fail(capsys, "-r", tree, web, "--seal", "none")
    assert litter(web) == []
    assert names(web) == ["a", "a/b", "dirlink", "f", "latest"]
    publish.publish_tree(str(tree), str(web), "none")
    assert names(web) == PUBLISHED


# --- removing ------------------------------------------------------------------------------------------------


def test_remove(tree: Path, web: Path, source: Path, played: Attributes, capsys: pytest.CaptureFixture[str]) -> None:
    publish.publish_tree(str(tree), str(web / "site"))
    publish.publish_file(str(source), str(web / "f"))
    assert main(["--remove", str(web / "site" / "latest")]) == 0
    assert main(["--remove", str(web / "f")]) == 0
    assert main(["-r", "--remove", str(web / "site")]) == 0
    assert f"removed {web}/site" in capsys.readouterr().out
    assert os.listdir(web) == []


def test_a_removal_that_was_killed_is_finished_by_the_next_run(web: Path, tree: Path, source: Path) -> None:
    publish.publish_tree(str(tree), str(web / "site"), "none")

    def killed() -> None:
        staging.reached = lambda step: os.kill(os.getpid(), signal.SIGKILL)
        publish.remove(str(web / "site"), recursive=True)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(30)
    assert len(litter(web)) == 1
    publish.publish_file(str(source), str(web / "f"), "none")
    assert os.listdir(web) == ["f"]


# --- what this host itself can do ----------------------------------------------------------------------------


@pytest.fixture
def real(web: Path) -> Iterator[Path]:
    """A directory whose immutable files are freed at the end."""
    yield web
    for path in web.rglob("*"):
        if path.is_file() and not path.is_symlink():
            staging._unlink_sealed(str(path))


def test_for_real(real: Path, source: Path) -> None:
    """Whatever seal this file system and user get, what is said about it is true."""
    (said,) = publish.publish_file(str(source), str(real / "f"))
    with (real / "f").open("rb") as file:
        found = seal.reason(file.fileno())
    assert (f"(sealed: {found})" in said) == bool(found)
    assert ("not sealed" in said) == (not found)
    if found:
        with pytest.raises(PermissionError):
            (real / "f").open("r+b")
    source.write_text(OLD)
    publish.publish_file(str(source), str(real / "f"))
    assert (real / "f").read_text() == OLD
    publish.remove(str(real / "f"))
    assert os.listdir(real) == []
