# SPDX-License-Identifier: Apache-2.0
"""The QEMU command line of a lab VM (pure), and starting it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ktls_lab import process, tools
from ktls_lab.errors import LabError

# Part of a snapshot's key: raise it whenever the devices below change, for a saved state fits only its devices.
TOPOLOGY = "2"
SNAPSHOT = "ready"
MGMT_NETDEV, PRIVATE_NETDEV = "mgmt", "private"
CHANNEL_PORT = "ktls.lab.0"
# mitigations=off: the emulated CPU counts as vulnerable, and page-table isolation makes every system call flush
# QEMU's translation cache. A lab host runs nothing that it must be protected from.
CMDLINE = "root=/dev/vda rw console=ttyS0 loglevel=4 net.ifnames=0 mitigations=off panic=10 fsck.mode=skip"
CMDLINE += " systemd.show_status=no"
SSH_GUEST_PORT, HTTPS_GUEST_PORT = 22, 8443


@dataclass(frozen=True)
class Forward:
    """Loopback ports of the control node that lead to the guest."""

    ssh: int
    https: int


@dataclass(frozen=True)
class Machine:
    """What QEMU needs to run one VM. ``uuid`` marks its process; ``run_dir`` must be a short path (108 bytes)."""

    name: str
    uuid: str
    disk: Path
    kernel: Path
    initrd: Path
    console: Path
    run_dir: Path
    memory_mib: int
    accelerator: tuple[str, ...]
    mac: str
    mcast: str
    forward: Forward | None

    @property
    def qmp(self) -> Path:
        """Socket of the machine protocol."""
        return self.run_dir / f"{self.name}.qmp"

    @property
    def channel(self) -> Path:
        """Socket of the serial port to the resident."""
        return self.run_dir / f"{self.name}.lab"


def argv(machine: Machine, *, restore: bool) -> list[str]:
    """Return the command; ``restore`` starts from the disk's snapshot instead of booting."""
    user = f"user,id={MGMT_NETDEV},restrict=on,ipv6=off"
    if machine.forward is not None:
        user += f",hostfwd=tcp:127.0.0.1:{machine.forward.ssh}-10.0.2.15:{SSH_GUEST_PORT}"
        user += f",hostfwd=tcp:127.0.0.1:{machine.forward.https}-10.0.2.15:{HTTPS_GUEST_PORT}"
    private = f"socket,id={PRIVATE_NETDEV},mcast={machine.mcast},localaddr=127.0.0.1"
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        "-name", f"guest=ktls-{machine.name}", "-uuid", machine.uuid,
        "-machine", "q35,usb=off,sata=off,smbus=off,vmport=off", *machine.accelerator, "-smp", "1",
        "-m", f"{machine.memory_mib}M", "-rtc", "base=utc",
        "-kernel", _option(machine.kernel), "-initrd", _option(machine.initrd), "-append", CMDLINE,
        "-chardev", f"file,id=console,path={_option(machine.console)},append=on", "-serial", "chardev:console",
        "-qmp", f"unix:{_option(machine.qmp)},server=on,wait=off",
        # Flushes reach the disk's file, so what the guest synced survives a power cut.
        "-drive", f"if=none,id=disk,file={_option(machine.disk)},format=qcow2,cache=writeback,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk,addr=0x3",
        "-netdev", user, "-device", f"virtio-net-pci,netdev={MGMT_NETDEV},addr=0x4,romfile=,mac=52:54:00:12:34:56",
        "-netdev", private, "-device", f"virtio-net-pci,netdev={PRIVATE_NETDEV},addr=0x5,romfile=,mac={machine.mac}",
        "-device", "virtio-serial-pci,addr=0x6",
        "-chardev", f"socket,id=lab,path={_option(machine.channel)},server=on,wait=off",
        "-device", f"virtserialport,chardev=lab,name={CHANNEL_PORT}",
        "-device", "virtio-rng-pci,addr=0x7",
    ]  # fmt: skip
    return [*command, "-loadvm", SNAPSHOT] if restore else command


def _option(path: Path) -> str:
    return str(path).replace(",", ",,")  # QEMU's way to write a comma inside an option


def start(machine: Machine, log: Path, *, restore: bool, die_with_parent: bool = False) -> process.ProcessId:
    """Start the VM's process detached from this one; its own messages go to ``log``.

    Raises:
        LabError: QEMU ended at once.
    """
    command = argv(machine, restore=restore)
    if die_with_parent:
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    for stale in (machine.qmp, machine.channel):
        stale.unlink(missing_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
            env=os.environ | {"PATH": tools.search_path()},
        )
    started = process.identify(child.pid)
    if started is None:
        child.wait()
        raise LabError(why_ended(machine, log))
    return started


def why_ended(machine: Machine, log: Path) -> str:
    """One line on a VM that is not there any more, from QEMU's own last message."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"the VM of {machine.name} ended: {lines[-1] if lines else 'QEMU said nothing'}"
