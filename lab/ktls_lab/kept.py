# SPDX-License-Identifier: Apache-2.0
"""A running lab put into a directory, as it is, for other labs to go on from: ``api.keep`` and ``api.up(kept=...)``.

What goes on is the same hosts: machine-id, host keys and addresses are those of the kept lab. That is no harm, since no
lab's network leads to another. Their random numbers part within a minute, when the kernel mixes in what the host's
virtio device gives it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ktls_lab import cache, identity, process, qemu, qmp, sshfiles, state
from ktls_lab.errors import LabError
from ktls_lab.state import HostState, LabState

CA = "ca"
QUIT_TIMEOUT_S = 30.0


def save_vm(machine: qemu.Machine, running: process.ProcessId) -> None:
    """Save the VM into its disk, in the place of the snapshot that it was restored from, and end it."""
    with qmp.Qmp(machine.qmp) as monitor:
        monitor.execute("stop")
        monitor.monitor(f"savevm {qemu.SNAPSHOT}")
        monitor.execute("quit")
    deadline = time.monotonic() + QUIT_TIMEOUT_S
    while process.is_alive(running):
        if time.monotonic() > deadline:
            message = f"the VM of {machine.name} was saved and does not end: 'ktls lab down' ends it"
            raise LabError(message)
        time.sleep(0.05)


def store(lab: LabState, directory: Path, place: Path) -> None:
    """Put what ``directory``, that of a lab whose VMs have ended, holds of its hosts into ``place``."""
    for host in lab.hosts:
        (place / host.name).mkdir(parents=True)
        shutil.move(directory / host.name / "disk.qcow2", place / host.name / "disk.qcow2")
    copy_keys(lab.hosts, directory, place)
    if (directory / CA).is_dir():
        shutil.copytree(directory / CA, place / CA)
    # Last: a place with a state is whole.
    cache.write_atomically(place / state.FILE, state.dumps(lab))


def load(place: Path) -> LabState:
    """Return the state of the lab that is kept in ``place``; LabError when there is none."""
    path = place / state.FILE
    try:
        return state.loads(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        message = f"no lab is kept in {place}: 'keep' one there first"
        raise LabError(message) from error


def identities(kept: LabState) -> list[identity.Identity]:
    """Who the hosts are."""
    return [
        identity.Identity(host.index, host.name, host.fqdn, host.address, host.mac, host.machine_id)
        for host in kept.hosts
    ]


def copy_keys(hosts: tuple[HostState, ...], source: Path, target: Path) -> None:
    """Copy the key that opens the hosts, and their own."""
    names = [sshfiles.LAB_KEY, *(f"{host.name}/ssh_host_ed25519_key" for host in hosts)]
    for name in (part for key in names for part in (key, f"{key}.pub")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)


def prune(places: Path, unused_s: float, say: Callable[[str], None]) -> None:
    """Remove kept labs that nobody has started from for ``unused_s`` seconds."""
    for place in places.iterdir() if places.is_dir() else ():
        used = place / state.FILE
        if not place.name.startswith(".") and used.is_file() and time.time() - used.stat().st_mtime > unused_s:
            say(f"kept lab {place.name}: not used for a while, removed")
            shutil.rmtree(place, ignore_errors=True)
