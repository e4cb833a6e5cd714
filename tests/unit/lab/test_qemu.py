# SPDX-License-Identifier: Apache-2.0
"""The QEMU command line: what keeps traffic on loopback and a clone restorable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ktls_lab import accel, qemu
from ktls_lab.errors import LabError
from ktls_lab.qemu import Forward, Machine

MACHINE = Machine(
    name="web1",
    uuid="00000000-0000-4000-8000-000000000001",
    disk=Path("/lab/a,b/web1/disk.qcow2"),
    kernel=Path("/cache/vmlinuz"),
    initrd=Path("/cache/initrd.img"),
    console=Path("/lab/a,b/web1/console.log"),
    run_dir=Path("/tmp/ktls-lab-1"),
    memory_mib=512,
    accelerator=accel.TCG.arguments,
    mac="52:54:00:96:00:0b",
    mcast="239.192.1.2:20001",
    forward=Forward(ssh=20002, https=20003),
)


def values(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def test_all_networking_stays_on_loopback() -> None:
    user, private = values(qemu.argv(MACHINE, restore=True), "-netdev")
    assert user.split(",")[:3] == ["user", "id=mgmt", "restrict=on"]
    forwards = [word for word in user.split(",") if word.startswith("hostfwd=")]
    assert forwards == ["hostfwd=tcp:127.0.0.1:20002-10.0.2.15:22", "hostfwd=tcp:127.0.0.1:20003-10.0.2.15:8443"]
    assert private.split(",")[2:] == ["mcast=239.192.1.2:20001", "localaddr=127.0.0.1"]


def test_boot_and_restore_have_the_same_devices() -> None:
    boot, restore = qemu.argv(MACHINE, restore=False), qemu.argv(MACHINE, restore=True)
    assert restore == [*boot, "-loadvm", "ready"]


def test_software_emulation_uses_the_cpu_that_does_not_crash() -> None:
    argv = qemu.argv(MACHINE, restore=False)
    assert values(argv, "-accel") == ["tcg,thread=multi"]
    assert values(argv, "-cpu") == ["Westmere,-cx16"]


def test_commas_in_paths() -> None:
    (drive,) = values(qemu.argv(MACHINE, restore=False), "-drive")
    assert "file=/lab/a,,b/web1/disk.qcow2,format=qcow2" in drive
    assert "cache=writeback" in drive, "a lost flush would make a power cut eat synced files"


def test_no_forward_for_the_snapshot() -> None:
    assert "hostfwd" not in " ".join(qemu.argv(replace(MACHINE, forward=None), restore=False))


def test_a_vm_that_does_not_start_says_why(tmp_path: Path) -> None:
    log = tmp_path / "qemu.log"
    log.write_text("warning: x\nqemu-system-x86_64: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:22'\n")
    assert qemu.why_ended(MACHINE, log).startswith("the VM of web1 ended: qemu-system-x86_64: Could not set up host")
    log.write_text("")
    assert qemu.why_ended(MACHINE, log).endswith("QEMU said nothing")


def test_probe_boots_to_a_first_process() -> None:
    argv = accel.probe_argv(Path("/k"), Path("/i"), accel.KVM)
    assert values(argv, "-accel") == ["kvm"]
    assert "rdinit=" in values(argv, "-append")[0]
    assert accel.MARKER in values(argv, "-append")[0]


def test_accelerator_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTLS_LAB_ACCEL", "kvm")
    assert accel.choose(Path("/k"), Path("/i")) is accel.KVM
    monkeypatch.setenv("KTLS_LAB_ACCEL", "xen")
    with pytest.raises(LabError, match="use kvm or tcg"):
        accel.choose(Path("/k"), Path("/i"))


def test_probe_that_fails_falls_back_and_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KTLS_LAB_ACCEL", raising=False)
    monkeypatch.setenv("KTLS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("os.access", lambda _path, _mode: True)
    monkeypatch.setattr(accel, "qemu_version", lambda: "QEMU emulator version 7.2.0")
    probes: list[str] = []

    def boots(_kernel: Path, _initrd: Path, accelerator: accel.Accelerator) -> bool:
        probes.append(accelerator.name)
        return False

    monkeypatch.setattr(accel, "boots", boots)
    assert accel.choose(Path("/k"), Path("/i")) is accel.TCG
    assert accel.choose(Path("/k"), Path("/i")) is accel.TCG
    assert probes == ["kvm"], "one probe boot for one kernel and QEMU"
    monkeypatch.setattr(accel, "qemu_version", lambda: "QEMU emulator version 10.0.0")
    accel.choose(Path("/k"), Path("/i"))
    assert probes == ["kvm", "kvm"], "another QEMU is probed anew"
