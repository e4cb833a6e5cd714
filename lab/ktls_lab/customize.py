# SPDX-License-Identifier: Apache-2.0
"""What turns a plain Debian tree into a lab host: a pure list of files and links, and a writer."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ktls_lab import content

_GUEST = Path(__file__).parent / "guest"
_WANTS = "etc/systemd/system/multi-user.target.wants"
# Replaced by each host's own; present so that systemd does not take every boot for the first one.
_PLACEHOLDER_MACHINE_ID = "ffffffffffff4fffbfffffffffffffff"

# Nothing in a lab host needs these; each costs seconds of an emulated boot or wakes up in the middle of a test.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-logind.service",
    "systemd-pstore.service", "systemd-hwdb-update.service", "systemd-binfmt.service", "ldconfig.service",
    "systemd-journal-catalog-update.service", "systemd-update-done.service", "systemd-update-utmp.service",
    "systemd-tpm2-setup.service", "systemd-tpm2-setup-early.service", "systemd-pcrmachine.service",
    "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "sshd-keygen.service",
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-network-generator.service",
    "sys-fs-fuse-connections.mount", "dev-hugepages.mount",
)  # fmt: skip

MASKED_GENERATORS = ("systemd-ssh-generator", "systemd-gpt-auto-generator", "systemd-hibernate-resume-generator")

_SSHD = """\
# The lab's control node logs in as root with the lab's key and nothing else.
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100:30:200
MaxSessions 64
"""

_SSH_UNIT = """\
[Unit]
ConditionPathExists=/etc/ktls-lab/identity

[Service]
ExecStartPre=
"""

_JOURNAL = """\
[Journal]
Storage=persistent
SystemMaxUse=24M
SystemMaxFileSize=8M
"""

_INITRAMFS = """\
MODULES=list
COMPRESS=gzip
RESUME=none
FSTYPE=ext4
"""

# Only what it takes to mount the root disk: a small initrd without udev is most of a fast emulated boot.
_INITRAMFS_HOOK = """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
force_load virtio_pci
force_load virtio_blk
force_load ext4
"""

# initramfs-tools(7): a script in /etc replaces the one of the same name in /usr/share. devtmpfs makes /dev/vda.
_NOTHING = """\
#!/bin/sh
exit 0
"""
_WITHOUT = (
    "hooks/udev",
    "hooks/fsck",
    "hooks/keymap",
    "hooks/thermal",
    "scripts/init-top/udev",
    "scripts/init-bottom/udev",
    "scripts/init-top/keymap",
)


@dataclass(frozen=True)
class ImageFile:
    """A file to put into an image; ``path`` is relative to the image's root."""

    path: str
    data: bytes
    mode: int = 0o644


@cache
def _guest(name: str) -> bytes:
    """Content of a file for the guest, read once: what a digest names and what is written are the same."""
    return (_GUEST / name).read_bytes()


def before_kernel() -> list[ImageFile]:
    """Files that must be there before the kernel package makes its initrd."""
    return [
        ImageFile("etc/initramfs-tools/conf.d/ktls-lab", _INITRAMFS.encode()),
        ImageFile("etc/initramfs-tools/hooks/ktls-lab", _INITRAMFS_HOOK.encode(), 0o755),
        *(ImageFile(f"etc/initramfs-tools/{script}", _NOTHING.encode(), 0o755) for script in _WITHOUT),
    ]


def after_packages() -> list[ImageFile]:
    """Files that make the installed system a lab host that waits for its identity."""
    units = ("ktls-lab-net.service", "ktls-lab-guest.service")
    return [
        *(ImageFile(f"etc/systemd/system/{unit}", _guest(unit)) for unit in units),
        ImageFile("usr/local/lib/ktls-lab/guest.py", _guest("guest.py"), 0o755),
        ImageFile("usr/local/lib/ktls-lab/net", _guest("net"), 0o755),
        ImageFile("etc/ssh/sshd_config.d/00-ktls-lab.conf", _SSHD.encode()),
        ImageFile("etc/systemd/system/ssh.service.d/ktls-lab.conf", _SSH_UNIT.encode()),
        ImageFile("etc/systemd/journald.conf.d/ktls-lab.conf", _JOURNAL.encode()),
        ImageFile("etc/fstab", b"/dev/vda / ext4 rw,relatime 0 0\n"),
        ImageFile("etc/hostname", b"unidentified\n"),
        ImageFile("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n"),
        ImageFile("etc/machine-id", f"{_PLACEHOLDER_MACHINE_ID}\n".encode(), 0o444),
        ImageFile("etc/resolv.conf", b"# A lab host has no name service: /etc/hosts knows its peers.\n"),
    ]


def links() -> dict[str, str]:
    """Symbolic links of a lab host: path relative to the root, and target."""
    enabled = {
        f"{_WANTS}/{unit}": f"/etc/systemd/system/{unit}" for unit in ("ktls-lab-net.service", "ktls-lab-guest.service")
    }
    generators = {f"etc/systemd/system-generators/{name}": "/dev/null" for name in MASKED_GENERATORS}
    return enabled | generators | {f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED}


def served() -> list[ImageFile]:
    """Return the demo content."""
    base = content.DIRECTORY.lstrip("/")
    return [ImageFile(f"{base}/{name}", content.file_bytes(name)) for name in content.SIZES]


def ingredients() -> bytes:
    """All that this module puts into an image, as one string of bytes: part of the image's digest."""
    parts = [f"{file.path} {file.mode:o} ".encode() + file.data for file in [*before_kernel(), *after_packages()]]
    parts += [f"{path} -> {target}".encode() for path, target in sorted(links().items())]
    parts += [f"{path} {sha256}".encode() for path, sha256 in content.manifest().items()]
    return b"\0".join(parts)


def write(root: Path, files: list[ImageFile]) -> None:
    """Put ``files`` below ``root``, replacing what is there."""
    for file in files:
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(file.data)
        path.chmod(file.mode)


def mask(root: Path, units: Iterable[str]) -> None:
    """Let units of packages not run by themselves; ``systemctl unmask`` gives them back."""
    for unit in units:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")


def customize(root: Path) -> None:
    """Make the Debian tree at ``root`` a lab host."""
    for pattern in (
        "etc/ssh/ssh_host_*",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "var/lib/dbus/machine-id",
        "var/log/*.log",
        "var/log/apt/*",
        "var/lib/systemd/random-seed",
    ):
        for leftover in root.glob(pattern):
            leftover.unlink()
    for leftover in (root / "boot").iterdir():
        if leftover.name.startswith(("vmlinuz", "initrd")):  # booted from outside the disk
            leftover.unlink()
    write(root, [*after_packages(), *served()])
    for directory in ("etc/ktls-lab", "var/log/journal"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for path, target in links().items():
        link = root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
