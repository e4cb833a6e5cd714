# SPDX-License-Identifier: Apache-2.0
"""Build an image from Debian packages: mmdebstrap, an ext4 file system from the tree, a qcow2 disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ktls_lab import apt, cache, customize, tools
from ktls_lab.errors import LabError
from ktls_lab.images import Image
from ktls_lab.paths import cache_dir

BUILDER_VERSION = b"1"
NEEDED_MIB = 1500
_LOG_LINES = 6

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
    digest = image.digest(BUILDER_VERSION, customize.ingredients())
    return BuiltImage(image, cache_dir() / "images" / f"{image.name}-{digest}")


def ensure(image: Image, say: Say) -> BuiltImage:
    """Return the built image, building it if the cache lacks it (about a minute on two cores).

    Raises:
        LabError: tools missing, not root, disk full, or a failed build (with the end of its log).
    """
    built = locate(image)
    if built.directory.is_dir():
        return built
    log = built.directory.with_name(f"{image.name}.build.log")
    try:
        _check_machine(built.directory)
        cache.make_once(built.directory, lambda place: _build(image, place, log, say))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise LabError(_disk_full(image, built.directory)) from error
        message = f"cannot build image {image.name}: {error}"
        raise LabError(message) from error
    return built


def _disk_full(image: Image, place: Path) -> str:
    return (
        f"cannot build image {image.name}: disk full in {place.parent} (a build needs {NEEDED_MIB} MiB): "
        "free some space or set KTLS_CACHE_DIR to another disk"
    )


def _check_machine(place: Path) -> None:
    if os.geteuid() != 0:
        message = "building an image needs root (for device files and file owners): run 'ktls lab build' as root"
        raise LabError(message)
    tools.require(tools.BUILD_TOOLS, () if Path(tools.KEYRING).exists() else ("debian-archive-keyring",))
    place.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(place.parent).free < NEEDED_MIB << 20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.parent))


def mmdebstrap_argv(image: Image, tree: Path, before_kernel: Path, apt_options: list[str]) -> list[str]:
    """Command that fills ``tree`` with the image's packages; ``before_kernel`` is copied in before the kernel."""
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
    return [*argv, image.suite, str(tree), *(source.line() for source in image.sources)]


def _build(image: Image, place: Path, log: Path, say: Say) -> None:
    started = time.monotonic()
    tree, staging = place / "tree", place / "staging"
    customize.write(staging, customize.before_kernel())
    try:
        with log.open("w", encoding="utf-8") as output:
            say(f"image {image.name}: installing packages (log: {log})")
            _step(image, mmdebstrap_argv(image, tree, staging, apt.options()), log, output.fileno())
            for pattern, name in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd.img")):
                found = sorted((tree / "boot").glob(pattern))
                if len(found) != 1:
                    message = f"cannot build image {image.name}: {len(found)} files boot/{pattern}; see {log}"
                    raise LabError(message)
                shutil.copyfile(found[0], place / name)
                version = found[0].name.partition("-")[2]
            shutil.copyfile(tree / "var/lib/dpkg/status", place / "dpkg-status")
            customize.customize(tree)
            say(f"image {image.name}: making the disk")
            raw = place / "base.raw"
            _step(
                image,
                [
                    "mke2fs",
                    "-q",
                    "-F",
                    "-t",
                    "ext4",
                    "-L",
                    "ktls-lab",
                    "-E",
                    "root_owner=0:0",
                    "-d",
                    str(tree),
                    str(raw),
                    f"{image.disk_mib}M",
                ],
                log,
                output.fileno(),
            )
            _step(
                image,
                ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(place / "base.qcow2")],
                log,
                output.fileno(),
            )
            raw.unlink()
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
    seconds = round(time.monotonic() - started, 1)
    facts = {"image": image.name, "kernel": version, "build_s": seconds}
    (place / "image.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(log, place / "build.log")
    say(f"image {image.name}: built in {seconds:.0f} s, kernel {version}")


def _step(image: Image, argv: list[str], log: Path, output: int) -> None:
    """Run one command with its output in the log. It ends with us: setpriv(1) --pdeathsig."""
    environment = os.environ | {"PATH": tools.search_path(), "LC_ALL": "C.UTF-8"}
    guarded = ["setpriv", "--pdeathsig", "TERM", *argv]
    run = subprocess.run(guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, check=False)
    if run.returncode == 0:
        return
    with log.open(encoding="utf-8", errors="replace") as lines:
        tail = [line.strip() for line in deque(lines, 400)]
    if any("No space left on device" in line or "enough free space" in line for line in tail):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    last = " | ".join([line for line in tail if line][-_LOG_LINES:])
    what = f"{argv[0]} failed with exit status {run.returncode}"
    message = f"cannot build image {image.name}: {what}: {last} (log: {log})"
    raise LabError(message)
