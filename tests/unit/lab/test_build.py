# SPDX-License-Identifier: Apache-2.0
"""Builds that fail say so in one line and leave nothing; a build that works is kept. The tools are stand-ins."""

from __future__ import annotations

import collections
import os
import shutil
from pathlib import Path

import pytest

from ktls_lab import api, apt, build, images, rig, tools
from ktls_lab.cli import main
from ktls_lab.errors import LabError
from ktls_lab.paths import cache_dir

GOOD_DEBOOTSTRAP = """
for tree; do case "$tree" in */tree) break;; esac; done
mkdir -p "$tree/boot" "$tree/var/lib/dpkg" "$tree/etc/machine" "$tree/usr/bin" "$tree/proc"
echo kernel > "$tree/boot/vmlinuz-6.12.1"; echo initrd > "$tree/boot/initrd.img-6.12.1"
echo status > "$tree/var/lib/dpkg/status"
"""
# mmdebstrap for the build tree, where what the script in it would build appears.
GOOD_BUILD = """
for tree; do case "$tree" in */tree) break;; esac; done
mkdir -p "$tree/build"
for name in libgnutls30t64 libgnutls-dane0t64 gnutls-bin libgnutls28-dev; do
    echo "$name" > "$tree/build/${name}_3.8.9-3+ktls1_amd64.deb"
done
"""
# chroot: what make makes, and depmod, which finds what is there.
GOOD_CHROOT = """
for tree; do case "$tree" in */tree) break;; esac; done
case "$*" in
*modules*) cat "$tree/tlssim/tlssim.c" > "$tree/tlssim/tlssim.ko";;
*depmod*) ls "$tree/usr/lib/modules/6.12.1/extra";;
esac
"""
GOOD_APT = """
[ -f "$APT_CONFIG" ] || exit 8
case "$*" in
*update) ;;
*--dsc-only*) printf 'Format: 3.0 (quilt)\\nVersion: 3.8.9-3\\n' > gnutls28_3.8.9-3.dsc;;
*--tar-only*) echo code > gnutls28_3.8.9.orig.tar.xz;;
*--diff-only*) echo packaging > gnutls28_3.8.9-3.debian.tar.xz;;
*) exit 7;;
esac
"""


@pytest.fixture
def stand_ins(tmp_path: Path, labs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of scripts that PATH has first: mmdebstrap, mke2fs, qemu-img, apt-get, unshare, chroot."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(apt, "options", list)
    monkeypatch.setattr(tools, "KEYRING", "/dev/null")
    stand_in(directory, "mmdebstrap", GOOD_DEBOOTSTRAP)
    # The real one needs a real root; tests/vm/gnutls shows what it is for.
    stand_in(directory, "unshare", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    stand_in(directory, "chroot", GOOD_CHROOT)
    for name in ("mount", "chown"):
        stand_in(directory, name, "")
    stand_in(directory, "apt-get", GOOD_APT)
    stand_in(directory, "mke2fs", 'for word; do case "$word" in *.raw) echo disk > "$word";; esac; done')
    stand_in(directory, "qemu-img", 'for last; do :; done; echo qcow2 > "$last"')
    return directory


def stand_in(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (directory / name).chmod(0o755)


def failure(name: str = "debian13") -> str:
    with pytest.raises(LabError) as caught:
        build.ensure(images.load(name), lambda _line: None)
    words = str(caught.value)
    assert "\n" not in words
    place = build.locate(images.load(name)).directory
    assert not place.exists()
    assert not list(place.parents[1].glob("*/.*.tmp")), "a half-made image was left"
    return words


def kept_packages() -> list[str]:
    return sorted(path.name for path in cache_dir().glob("packages/*/*"))


def test_a_good_build_is_kept_and_used_again(stand_ins: Path) -> None:
    said: list[str] = []
    built = build.ensure(images.load("debian13"), said.append)
    assert sorted(path.name for path in built.directory.iterdir()) == [
        "base.qcow2", "build.log", "dpkg-status", "image.json", "initrd.img", "vmlinuz",
    ]  # fmt: skip
    assert built.kernel.read_text(encoding="ascii") == "kernel\n"
    assert "kernel 6.12.1" in said[-1]
    stand_in(stand_ins, "mmdebstrap", "exit 9")
    assert build.ensure(images.load("debian13"), said.append).directory == built.directory


def test_a_failed_build_shows_the_end_of_its_log(stand_ins: Path) -> None:
    stand_in(stand_ins, "mmdebstrap", "echo one; echo 'E: Unable to locate package nope' >&2; exit 25")
    words = failure()
    assert "mmdebstrap failed with exit status 25" in words
    assert "one | E: Unable to locate package nope" in words
    log = Path(words.rpartition("(log: ")[2].rstrip(")"))
    assert "Unable to locate package nope" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("tool", ["mmdebstrap", "mke2fs", "qemu-img"])
def test_a_disk_that_fills_up_during_the_build(stand_ins: Path, tool: str) -> None:
    stand_in(stand_ins, tool, "echo 'write failed: No space left on device' >&2; exit 1")
    words = failure()
    assert words.startswith("cannot build image debian13: disk full in ")
    assert words.endswith("free some space or set KTLS_CACHE_DIR to another disk")


def test_a_disk_that_is_full_before_the_build(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(10, 9, 1))
    stand_in(stand_ins, "mmdebstrap", "exit 9")
    assert "disk full" in failure()


def test_a_tree_without_a_kernel(stand_ins: Path) -> None:
    stand_in(stand_ins, "mmdebstrap", GOOD_DEBOOTSTRAP + 'rm "$tree"/boot/vmlinuz*')
    assert "0 files boot/vmlinuz-*" in failure()


def test_missing_tools_are_named_with_the_command(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tools.find
    monkeypatch.setattr(tools, "find", lambda tool: None if tool in {"mmdebstrap", "mke2fs"} else real(tool))
    monkeypatch.setattr(tools, "KEYRING", "/nonexistent")
    assert main(["build"]) == 1
    assert capsys.readouterr().err == (
        "ktls lab: missing on this machine: run 'apt-get install --no-install-recommends "
        "debian-archive-keyring e2fsprogs mmdebstrap'\n"
    )


def test_building_needs_root(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in failure()


def test_the_rig_is_built_once_and_put_into_the_image(stand_ins: Path) -> None:
    """Its source decides the image; an image that is made again for another reason takes it from the cache."""
    calls, kept, said = stand_ins / "calls", stand_ins / "modules", list[str]()
    stand_in(stand_ins, "mmdebstrap", f'echo "$*" >> {calls}\n{GOOD_DEBOOTSTRAP}')
    stand_in(stand_ins, "mke2fs", f'while [ "$1" != -d ]; do shift; done; cp -r "$2/usr/lib" {kept}; echo disk > "$3"')
    built = build.ensure(images.load("debian13"), said.append)
    module = kept / "modules/6.12.1/extra/tlssim.ko"
    assert module.read_bytes() == (rig.SOURCE / "tlssim.c").read_bytes()
    assert (kept / "ktls-lab/tlssim").read_text(encoding="ascii") == "6.12.1\n"
    image, headers = calls.read_text(encoding="utf-8").splitlines()
    assert "--variant=apt" in image and "linux-headers" not in image
    assert "--variant=extract" in headers and "--include=linux-headers-6.12.1,make," in headers
    assert not list(built.directory.parents[1].glob("modules/*/tree")), "headers and compiler stay"
    built.directory.rename(built.directory.with_name("old"))
    shutil.rmtree(kept)
    build.ensure(images.load("debian13"), said.append)
    assert module.is_file()
    assert len(calls.read_text(encoding="utf-8").splitlines()) == 3
    assert len([line for line in said if "building the offload rig" in line]) == 1


def test_a_rig_that_does_not_compile(stand_ins: Path) -> None:
    stand_in(stand_ins, "chroot", "echo 'tlssim.c:1: error: no' >&2; exit 2")
    words = failure()
    assert "exit status 2" in words and "tlssim.c:1: error: no" in words
    assert not list(cache_dir().glob("modules/[!.]*"))


def rebuilding(stand_ins: Path, build_tree: str = GOOD_BUILD, apt_get: str = GOOD_APT) -> Path:
    """Have stand-ins for an image with a rebuilt package; returns the file that has mmdebstrap's arguments."""
    calls = stand_ins / "calls"
    stand_in(stand_ins, "apt-get", apt_get)
    script = f'echo "$*" >> {calls}\ncase "$*" in *--variant=buildd*) {build_tree}\n;; *) {GOOD_DEBOOTSTRAP}\n;; esac'
    stand_in(stand_ins, "mmdebstrap", script)
    return calls


def test_what_is_rebuilt_is_kept_and_installed(stand_ins: Path) -> None:
    calls, said = rebuilding(stand_ins), list[str]()
    built = build.ensure(images.load("debian13-gnutls"), said.append)
    assert kept_packages() == [
        f"{name}_3.8.9-3+ktls1_amd64.deb" for name in ("gnutls-bin", "libgnutls-dane0t64", "libgnutls30t64")
    ]
    assert sorted(path.name for path in built.directory.iterdir()) == [
        "base.qcow2", "build.log", "dpkg-status", "image.json", "initrd.img", "vmlinuz",
    ]  # fmt: skip
    first, second = calls.read_text(encoding="utf-8").splitlines()
    assert "--variant=buildd" in first
    assert "dpkg --install" not in first
    assert "libgnutls30t64_3.8.9-3+ktls1_amd64.deb" in second.partition("dpkg --install")[2]
    assert "libgnutls28-dev" not in second
    assert said[0].startswith("image debian13-gnutls: gnutls28 3.8.9-3 with --enable-ktls: building it")

    # The image again, without the packages again; and all of it again when the source package is another one.
    for apt_get, lines in ((GOOD_APT, 3), (GOOD_APT.replace("3.8.9-3", "3.8.9-4"), 5)):
        built.directory.rename(built.directory.with_name(f"old-{lines}"))
        stand_in(stand_ins, "apt-get", apt_get)
        said.clear()
        build.ensure(images.load("debian13-gnutls"), said.append)
        assert len(calls.read_text(encoding="utf-8").splitlines()) == lines
        assert ("in the cache" in said[0]) == (lines == 3)


def test_apt_of_a_rebuild_knows_nothing_of_this_machine(stand_ins: Path) -> None:
    copy = stand_ins / "copy"
    rebuilding(stand_ins, apt_get=f'cp -r "$(dirname "$APT_CONFIG")" {copy}\necho "$*" >> {stand_ins}/apt\nexit 1')
    assert "apt-get failed with exit status 1" in failure("debian13-gnutls")
    config = (copy / "apt.conf").read_text(encoding="utf-8")
    root = config.partition('Dir "')[2].partition('"')[0]
    assert all(f'"{root}' in line for line in config.splitlines() if line.startswith("Dir"))
    assert "/rebuild-gnutls28/apt" in root
    sources = (copy / "etc/sources.list").read_text(encoding="utf-8").splitlines()
    assert len(sources) == 3
    assert all(line.startswith("deb-src [signed-by=/dev/null] http") for line in sources)
    # A source that cannot be reached is an error, not an older package.
    assert (stand_ins / "apt").read_text(encoding="utf-8") == "-q -oAPT::Update::Error-Mode=any update\n"


@pytest.mark.parametrize(
    ("build_tree", "apt_get", "complaint"),
    [
        ("echo 'configure: error: no nettle' >&2; exit 25", GOOD_APT, "exit status 25: configure: error: no nettle"),
        (GOOD_BUILD.replace("gnutls-bin ", ""), GOOD_APT, "0 files gnutls-bin_*.deb where one is needed"),
        (GOOD_BUILD, "exit 100", "apt-get failed with exit status 100"),
        (GOOD_BUILD, GOOD_APT.replace("Version", "Wersion"), "names no version"),
        (GOOD_BUILD, GOOD_APT.replace(".orig.", "."), "0 files *.orig.tar.* where one is needed"),
        (GOOD_BUILD, GOOD_APT.replace("echo code >", "touch a.orig.tar.xz;echo code >"), "2 files *.orig.tar.*"),
        ("echo 'cc: No space left on device' >&2; exit 1", GOOD_APT, "disk full in"),
    ],
)
def test_a_rebuild_that_fails(stand_ins: Path, build_tree: str, apt_get: str, complaint: str) -> None:
    rebuilding(stand_ins, build_tree, apt_get)
    words = failure("debian13-gnutls")
    assert words.startswith("cannot build image debian13-gnutls: ")
    assert complaint in words
    assert kept_packages() == []


def test_packages_are_kept_when_the_image_fails(stand_ins: Path) -> None:
    rebuilding(stand_ins)
    stand_in(stand_ins, "mke2fs", "exit 1")
    assert "mke2fs failed" in failure("debian13-gnutls")
    assert len(kept_packages()) == 3


def test_a_build_of_all_images_leaves_the_opt_in_ones_out(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build_image(name: str, _say: build.Say) -> Path:
        built.append(name)
        return Path(name)

    monkeypatch.setattr(api, "build_image", build_image)
    assert main(["build", "--all"]) == 0
    assert built == ["debian12", "debian13", "debian13-backports"]
    assert main(["build", "--image", "debian13-gnutls"]) == 0
    assert built[-1] == "debian13-gnutls"


def test_a_rebuild_needs_more_disk(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(0, 0, (build.NEEDED_MIB + 1) << 20))
    rebuilding(stand_ins)
    build.ensure(images.load("debian13"), lambda _line: None)
    assert "a build needs 3000 MiB" in failure("debian13-gnutls")
