# SPDX-License-Identifier: Apache-2.0
"""The offload rig of an image: the kernel module of ``lab/tlssim``, built against the headers of the image's kernel.

Headers and compiler are unpacked, not installed, in a tree that is thrown away: the image gets one file. What is
built is kept in the cache under the digest of all that decides it, so an image that is made again for another reason
takes it from there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ktls_lab import cache
from ktls_lab.images import Image
from ktls_lab.paths import PROJECT_ROOT, cache_dir
from ktls_lab.steps import Steps

BUILDER_VERSION = b"1"
SOURCE = PROJECT_ROOT / "lab" / "tlssim"
FILES = ("Kbuild", "tlssim.c")
MODULE = "tlssim.ko"
MARKER = "usr/lib/ktls-lab/tlssim"
"""File of an image, relative to its root, that tells what runs there that this is a lab host with the rig."""

_NOBODY = 65534
# make(1) and what the kernel's makefiles call; the headers bring their compiler. binutils is named because the
# compiler of a backported kernel is a cross compiler, and looks for a plain 'as' nevertheless.
_TOOLS = ("make", "binutils", "bash", "coreutils", "dash", "diffutils", "findutils", "grep", "mawk", "sed")
# Arguments: tree, kernel version. objtool of Linux 7 reads /proc; whoever runs this is in namespaces of its own. awk
# is made by a package's script, and unpacking runs none. The debug information is ten times the module.
_SCRIPT = f"""\
set -eu
tree=$1 kernel=$2
mount -t proc proc "$tree/proc"
[ -e "$tree/usr/bin/awk" ] || ln -s mawk "$tree/usr/bin/awk"
chown -R {_NOBODY}:{_NOBODY} "$tree/tlssim"
inside() {{ chroot --userspec={_NOBODY}:{_NOBODY} --groups= "$tree" env -i PATH=/usr/bin:/bin "$@"; }}
inside make -C "/usr/src/linux-headers-$kernel" M=/tlssim modules
inside x86_64-linux-gnu-strip --strip-debug "/tlssim/{MODULE}"
"""

Say = Callable[[str], None]


def _source() -> list[bytes]:
    return [(SOURCE / name).read_bytes() for name in FILES]


def ingredients() -> bytes:
    """What this module and the source add to the digest of an image with the rig."""
    return b"\0".join((BUILDER_VERSION, MARKER.encode(), _SCRIPT.encode(), " ".join(_TOOLS).encode(), *_source()))


def mmdebstrap_argv(image: Image, kernel: str, tree: Path, apt_options: Sequence[str]) -> list[str]:
    """Command that unpacks headers of the kernel of that version, and what builds with them, into ``tree``."""
    argv = ["mmdebstrap", "--variant=extract", "--format=directory", "--architectures=amd64"]
    argv += [f"--include={','.join((f'linux-headers-{kernel}', *_TOOLS))}"]
    argv += [f"--aptopt={option}" for option in apt_options]
    argv += ['--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io"]
    argv += [f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in ("doc", "man", "locale", "info")]
    return [*argv, image.suite, str(tree), *(source.line() for source in image.sources)]


def ensure(image: Image, kernel: str, apt_options: Sequence[str], steps: Steps, say: Say) -> Path:
    """Return the module for the kernel of that version, building it if the cache lacks it (half a minute).

    Raises:
        LabError: no such headers in the image's sources, or the module does not compile (with the end of the log).
        OSError: disk full.
    """
    sha = hashlib.sha256(ingredients())
    sha.update(repr((image.suite, image.sources)).encode())
    kept = cache_dir() / "modules" / f"tlssim-{kernel}-{sha.hexdigest()[:16]}"

    def build(into: Path) -> None:
        say(f"image {image.name}: building the offload rig for kernel {kernel} (log: {steps.log})")
        tree = into / "tree"
        try:
            steps.run(mmdebstrap_argv(image, kernel, tree, apt_options))
            place = tree / "tlssim"
            place.mkdir()
            for name, content in zip(FILES, _source()):
                (place / name).write_bytes(content)
            steps.run(["sh", "-c", _SCRIPT, "rig", str(tree), kernel])
            shutil.copyfile(place / MODULE, into / MODULE)
        finally:
            shutil.rmtree(tree, ignore_errors=True)

    cache.make_once(kept, build)
    return kept / MODULE


def install(module: Path, kernel: str, tree: Path, steps: Steps) -> None:
    """Put the module into the image at ``tree``, where modprobe finds it and nothing loads it, and the marker."""
    extra = tree / "usr/lib/modules" / kernel / "extra"
    extra.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(module, extra / MODULE)
    marker = tree / MARKER
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{kernel}\n", encoding="ascii")
    steps.run(["chroot", str(tree), "env", "-i", "PATH=/usr/sbin:/usr/bin", "depmod", kernel])
