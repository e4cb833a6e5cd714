# SPDX-License-Identifier: Apache-2.0
"""Seals: the numbers, and what counts as proof. Where this host cannot, the kernel's answers are played."""

from __future__ import annotations

import errno
import os
import struct
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ktls_sidecar import seal

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
23 22 8:1 / /srv/bound ro,relatime - ext4 /dev/vda1 rw,errors=remount-ro
24 22 8:2 / /srv/sealed ro,relatime shared:2 master:1 - ext4 /dev/vdb rw
25 22 8:3 / /srv/a\\040b ro - squashfs /dev/loop0 ro,errors=continue
26 22 8:4 / /srv/x rw - xfs /dev/vdc ro
27 22 0:50 / /srv/nfs ro - nfs4 server:/x ro,vers=4.2
28 22 0:51 / /srv/over ro - overlay overlay ro,lowerdir=/l
29 22 8:5 / /srv/twice ro - ext4 /dev/vdd ro
30 22 8:5 / /srv/twice2 ro - ext4 /dev/vdd rw
32 22 8:7 / /srv/twice3 rw - ext4 /dev/vde rw
33 22 8:7 / /srv/twice4 ro - ext4 /dev/vde ro
broken line
31 22 8:6 / /srv/no
"""


class Kernel:
    """ioctl(2) of a kernel with flags of one file."""

    def __init__(self, flags: int = 0, error: int = 0) -> None:
        self.flags = flags
        self.error = error
        self.calls: list[tuple[int, bytes]] = []

    def __call__(self, fd: int, number: int, argument: bytearray) -> None:
        self.calls.append((number, bytes(argument)))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if number == seal.FS_IOC_GETFLAGS:
            argument[:4] = struct.pack("=I", self.flags)
        elif number == seal.FS_IOC_SETFLAGS:
            (self.flags,) = struct.unpack("=I4x", argument)


def test_numbers() -> None:
    """As the C headers give them on 64 bit x86, Arm and RISC-V."""
    if os.uname().machine in ("x86_64", "aarch64", "riscv64"):
        assert seal.FS_IOC_GETFLAGS == 0x80086601
        assert seal.FS_IOC_SETFLAGS == 0x40086602
        assert seal.FS_IOC_ENABLE_VERITY == 0x40806685


def test_set_and_clear_keep_the_other_flags() -> None:
    kernel = Kernel(flags=0x80000)
    seal.set_immutable(5, True, kernel)
    assert kernel.flags == 0x80010
    seal.set_immutable(5, True, kernel)
    seal.set_immutable(5, False, kernel)
    assert kernel.flags == 0x80000
    # A call that changes nothing is not made: it may need a privilege.
    assert [number for number, _ in kernel.calls].count(seal.FS_IOC_SETFLAGS) == 2


def test_enable_verity(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        kernel = Kernel()
        seal.enable_verity(file.fileno(), kernel)
        ((number, argument),) = kernel.calls
        block = os.fstatvfs(file.fileno()).f_bsize
    assert number == seal.FS_IOC_ENABLE_VERITY
    assert len(argument) == 128
    assert struct.unpack_from("=IIII", argument) == (1, 1, block, 0)
    assert not any(argument[16:])


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (Kernel(seal.FS_VERITY_FL), seal.VERITY),
        (Kernel(seal.FS_VERITY_FL | seal.FS_IMMUTABLE_FL), seal.VERITY),
        (Kernel(seal.FS_IMMUTABLE_FL | 0x80000), seal.IMMUTABLE),
        (Kernel(0x80000 | seal.FS_APPEND_FL), ""),
        (Kernel(error=errno.ENOTTY), ""),
        (Kernel(error=errno.EIO), ""),
    ],
)
def test_reason(tmp_path: Path, kernel: Kernel, expected: str) -> None:
    with (tmp_path / "f").open("wb") as file:
        assert seal.reason(file.fileno(), kernel) == expected
        assert seal.is_immutable(file.fileno(), kernel) is bool(expected)


def test_a_plain_file_is_not_sealed(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        assert seal.reason(file.fileno()) == ""


def test_it_never_raises() -> None:
    reader, writer = os.pipe()
    try:
        for fd in (-1, 10**6, reader):
            assert seal.reason(fd) == ""
    finally:
        os.close(reader)
        os.close(writer)


def test_read_only_superblocks() -> None:
    """A read-only bind mount of what is writable elsewhere is no proof, and neither is a server's file system."""
    assert seal.read_only_devices(MOUNTS) == {"8:3", "8:4"}


@pytest.mark.parametrize(("options", "expected"), [("ro", seal.READ_ONLY), ("rw", "")])
def test_a_read_only_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, expected: str) -> None:
    with (tmp_path / "f").open("wb") as file:
        device = os.fstat(file.fileno()).st_dev
        line = f"1 0 {os.major(device)}:{os.minor(device)} / / ro - ext4 /dev/x {options}"
        monkeypatch.setattr(seal, "_mounts", None)
        monkeypatch.setattr(seal, "_read_only_devices", lambda: seal.read_only_devices(line))
        assert seal.reason(file.fileno()) == ""  # mounted writable
        monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NODEV))
        assert seal.reason(file.fileno()) == expected


def test_the_mounts_of_this_host_are_read_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(seal, "_mounts", None)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    first = seal._read_only_devices()
    now[0] += 0.9
    assert seal._read_only_devices() is first
    now[0] += 0.2
    assert seal._read_only_devices() is not first


def test_many_threads(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(seal.reason(file.fileno()))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [""] * 20
