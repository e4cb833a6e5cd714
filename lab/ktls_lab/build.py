# SPDX-License-Identifier: Apache-2.0
"""Build an image from Debian packages: mmdebstrap, an ext4 file system from the tree, a qcow2 disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktls_lab import apt, cache, customize, rebuild, rig, tools
from ktls_lab.errors import LabError
from ktls_lab.images import Image
from ktls_lab.paths import cache_dir
from ktls_lab.steps import Steps

BUILDER_VERSION = b"1"
NEEDED_MIB = 1500

Say = Callable[[str], None]


@dataclass(frozen=True)
class BuiltImage:
    """An image in the cache: a bootable disk, and the kernel and initrd to boot it with."""

    image: Image
    directory: Path

    @property
    def disk(self) -> Path:
        """Read-only qcow2 base disk."""
        return self.directory / "base.qcow2"

    @property
    def kernel(self) -> Path:
        """Return the kernel for QEMU's -kernel."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Return the initrd for QEMU's -initrd."""
        return self.directory / "initrd.img"


def locate(image: Image) -> BuiltImage:
    """Where the image is, or would be, in the cache."""
    rebuilt = [rebuild.ingredients()] if image.rebuild else []
    rigged = [rig.ingredients()] if image.rig else []
    digest = image.digest(BUILDER_VERSION, customize.ingredients(), *rebuilt, *rigged)
    return BuiltImage(image, cache_dir() / "images" / f"{image.name}-{digest}")


def ensure(image: Image, say: Say) -> BuiltImage:
    """Return the built image, building it if the cache lacks it (about a minute on two cores).

    An image with packages that are built again takes some minutes more, unless the cache has these.

    Raises:
        LabError: tools missing, not root, disk full, or a failed build (with the end of its log).
    """
    built = locate(image)
    if built.directory.is_dir():
        return built
    log = built.directory.with_name(f"{image.name}.build.log")
    try:
        _check_machine(image, built.directory)
        cache.make_once(built.directory, lambda place: _build(image, place, log, say))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LabError(_disk_full(image, built.directory)) from error
        message = f"cannot build image {image.name}: {error}"
        raise LabError(message) from error
    return built


def _disk_full(image: Image, place: Path) -> str:
    return (
        f"cannot build image {image.name}: disk full in {place.parent} (a build needs {_needed_mib(image)} MiB): "
        "free some space or set KTLS_CACHE_DIR to another disk"
    )


def _needed_mib(image: Image) -> int:
    return NEEDED_MIB + (rebuild.NEEDED_MIB if image.rebuild else 0)


def _check_machine(image: Image, place: Path) -> None:
    if os.geteuid() != 0:
        message = "building an image needs root (for device files and file owners): run 'ktls lab build' as root"
        raise LabError(message)
    tools.require(tools.BUILD_TOOLS, () if Path(tools.KEYRING).exists() else ("debian-archive-keyring",))
    place.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place.parent).free < _needed_mib(image) << 20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.parent))


def mmdebstrap_argv(
    image: Image, tree: Path, before_kernel: Path, apt_options: Sequence[str], rebuilt: Sequence[Path] = ()
) -> list[str]:
    """Command that fills ``tree`` with the image's packages.

    ``before_kernel`` is copied in before the kernel; ``rebuilt`` are packages that replace Debian's at the end.
    """
    kernel = f"{image.kernel_package}/{image.kernel_from}" if image.kernel_from else image.kernel_package
    argv = ["mmdebstrap", "--variant=apt", "--format=directory", "--architectures=amd64"]
    argv += [f"--include={','.join((kernel, *image.packages))}"]
    argv += [f"--aptopt={option}" for option in apt_options]
    # A package pulled in by the kernel may only exist in its suite.
    if image.kernel_from:
        argv += [f'--aptopt=APT::Default-Release "{image.suite}"']
    argv += [
        f"--dpkgopt=path-exclude={path}/*"
        for path in ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info")
    ]
    argv += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    argv += [f"--essential-hook=copy-in {before_kernel}/etc /"]
    argv += rebuild.install_hooks(rebuilt)
    return [*argv, image.suite, str(tree), *(source.line() for source in image.sources)]


def _build(image: Image, place: Path, log: Path, say: Say) -> None:
    started = time.monotonic()
    tree, staging = place / "tree", place / "staging"
    customize.write(staging, customize.before_kernel())
    try:
        with log.open("w", encoding="utf-8") as output:
            steps = Steps(image.name, log, output.fileno())
            options = apt.options()
            rebuilt = _rebuilt(image, place, options, steps, say)
            say(f"image {image.name}: installing packages (log: {log})")
            steps.run(mmdebstrap_argv(image, tree, staging, options, rebuilt))
            for pattern, name in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd.img")):
                found = sorted((tree / "boot").glob(pattern))
                if len(found) != 1:
                    raise steps.error(f"{len(found)} files boot/{pattern}; see {log}")
                shutil.copyfile(found[0], place / name)
                version = found[0].name.partition("-")[2]
            shutil.copyfile(tree / "var/lib/dpkg/status", place / "dpkg-status")
            customize.customize(tree)
            customize.mask(tree, image.masked)
            if image.rig:
                rig.install(rig.ensure(image, version, options, steps, say), version, tree, steps)
            say(f"image {image.name}: making the disk")
            raw = place / "base.raw"
            disk = ["-t", "ext4", "-L", "ktls-lab", "-E", "root_owner=0:0", "-d", str(tree)]
            steps.run(["mke2fs", "-q", "-F", *disk, str(raw), f"{image.disk_mib}M"])
            steps.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(place / "base.qcow2")])
            raw.unlink()
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
    seconds = round(time.monotonic() - started, 1)
    facts = {"image": image.name, "kernel": version, "build_s": seconds}
    (place / "image.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(log, place / "build.log")
    say(f"image {image.name}: built in {seconds:.0f} s, kernel {version}")


def _rebuilt(image: Image, place: Path, apt_options: Sequence[str], steps: Steps, say: Say) -> list[Path]:
    """Return the packages that the image takes from source packages built again."""
    packages: list[Path] = []
    for wanted in image.rebuild:
        work = place / f"rebuild-{wanted.source}"
        work.mkdir()
        try:
            packages += rebuild.ensure(image, wanted, work, apt_options, steps, say)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return packages
