# SPDX-License-Identifier: Apache-2.0
"""Boot an image once and save the running VM: every lab host is restored from that."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ktls_lab import accel, cache, process, qemu, qmp, tools
from ktls_lab.build import BuiltImage
from ktls_lab.channel import Channel
from ktls_lab.errors import LabError

BOOT_TIMEOUT_S = 90.0
DISK = "disk.qcow2"

Say = Callable[[str], None]


def locate(built: BuiltImage, accelerator: accel.Accelerator) -> Path:
    """Directory of the snapshot: a saved state fits only the same QEMU, CPU, memory and devices."""
    parts = [accel.qemu_version(), *accelerator.arguments, str(built.image.memory_mib), qemu.TOPOLOGY, qemu.CMDLINE]
    if accelerator.name == "kvm":
        parts += accel.host_cpu()
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return built.directory / "snapshots" / f"{accelerator.name}-{key}"


def ensure(built: BuiltImage, accelerator: accel.Accelerator, say: Say) -> Path:
    """Return the disk that holds the snapshot, booting the image when there is none yet.

    Raises:
        LabError: the image did not boot (with the end of its console).
    """
    place = locate(built, accelerator)
    cache.make_once(place, lambda temporary: _make(built, accelerator, temporary, say))
    return place / DISK


def create_overlay(base: Path, overlay: Path) -> None:
    """Make ``overlay``, a qcow2 disk that holds only what differs from ``base``."""
    qemu_img = str(tools.find("qemu-img"))
    run = subprocess.run(
        [qemu_img, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(overlay)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        message = f"cannot make {overlay}: {' '.join(run.stderr.split())}"
        raise LabError(message)


def _make(built: BuiltImage, accelerator: accel.Accelerator, place: Path, say: Say) -> None:
    started = time.monotonic()
    say(f"image {built.image.name}: booting once to take a snapshot ({accelerator.name})")
    create_overlay(built.disk, place / DISK)
    # Always the same short path for this place, so that the next try clears away what a killed one left.
    run_dir = Path(tempfile.gettempdir()) / f"ktls-lab-{hashlib.sha256(bytes(place)).hexdigest()[:8]}"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(mode=0o700)
    machine = qemu.Machine(
        name="snapshot",
        uuid=str(uuid.uuid4()),
        disk=place / DISK,
        kernel=built.kernel,
        initrd=built.initrd,
        console=place / "console.log",
        run_dir=run_dir,
        memory_mib=built.image.memory_mib,
        accelerator=accelerator.arguments,
        mac="52:54:00:96:00:01",
        mcast="239.192.0.1:20000",
        forward=None,
    )
    log = place / "qemu.log"
    try:
        running = qemu.start(machine, log, restore=False, die_with_parent=True)
        try:
            booted = _save(machine, running, log, BOOT_TIMEOUT_S * accelerator.slowness, started)
        finally:
            process.kill([running])
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)
    seconds = time.monotonic() - started
    size_mib = os.stat(place / DISK).st_blocks * 512 >> 20
    facts = {"boot_s": round(booted, 1), "total_s": round(seconds, 1), "disk_mib": size_mib}
    (place / "snapshot.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    say(f"image {built.image.name}: booted in {booted:.0f} s, snapshot of {size_mib} MiB after {seconds:.0f} s")


def _save(machine: qemu.Machine, running: process.ProcessId, log: Path, timeout_s: float, started: float) -> float:
    """Wait for the resident's word, save the VM, stop it; returns the seconds that the boot took."""
    with qmp.wait_for(machine.qmp, lambda: process.is_alive(running), 10.0) as monitor:
        try:
            with Channel(machine.channel) as channel:
                while channel.read(timeout_s).get("event") != "ready":
                    pass
                booted = time.monotonic() - started
                time.sleep(1.0)  # what the boot left running comes to rest
                monitor.execute("stop")
                monitor.monitor(f"savevm {qemu.SNAPSHOT}")
        except TimeoutError as error:
            message = f"the VM did not boot in {timeout_s:.0f} s; its console ends: {_console_end(machine.console)}"
            raise LabError(message) from error
        except ConnectionResetError as error:
            raise LabError(qemu.why_ended(machine, log)) from error
        monitor.execute("quit")
    deadline = time.monotonic() + 30.0
    while process.is_alive(running) and time.monotonic() < deadline:
        time.sleep(0.05)
    return booted


def _console_end(console: Path) -> str:
    text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or "(nothing was printed)"
