# SPDX-License-Identifier: Apache-2.0
"""Programs of the control node that the lab needs, and how to get them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from ktls_lab.errors import LabError

PACKAGE_OF = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "cp": "coreutils",
    "chroot": "coreutils",
    "mount": "mount",
}
RUN_TOOLS = ("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "cp")
BUILD_TOOLS = ("mmdebstrap", "mke2fs", "qemu-img", "setpriv", "unshare", "chroot", "mount")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def search_path() -> str:
    """PATH with the sbin directories, which a user's shell may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def find(tool: str) -> str | None:
    """Absolute path of ``tool``, or None."""
    return shutil.which(tool, path=search_path())


def require(tools: Iterable[str], extra_packages: Iterable[str] = ()) -> None:
    """Check that each of ``tools`` is there.

    Raises:
        LabError: some are not; the message has the one apt-get command that installs them all.
    """
    packages = {PACKAGE_OF[tool] for tool in tools if find(tool) is None} | set(extra_packages)
    if packages:
        message = f"missing on this machine: run 'apt-get install --no-install-recommends {' '.join(sorted(packages))}'"
        raise LabError(message)
