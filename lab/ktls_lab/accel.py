# SPDX-License-Identifier: Apache-2.0
"""KVM or software emulation: decided by booting a kernel, not by looking at /dev/kvm."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ktls_lab import cache, tools
from ktls_lab.errors import LabError
from ktls_lab.paths import cache_dir

MARKER = "KTLS-LAB-PROBE"
PROBE_TIMEOUT_S = 12.0


@dataclass(frozen=True)
class Accelerator:
    """How QEMU runs the guest's instructions."""

    name: str
    arguments: tuple[str, ...]

    @property
    def slowness(self) -> float:
        """Factor for timeouts: 1 with KVM."""
        return 1.0 if self.name == "kvm" else 4.0


KVM = Accelerator("kvm", ("-accel", "kvm", "-cpu", "host"))
# Westmere has AES-NI and PCLMULQDQ. Its cmpxchg16b is off because QEMU 7.2's emulation of it corrupts flags,
# which panics the guest's SLUB allocator in about every other boot.
TCG = Accelerator("tcg", ("-accel", "tcg,thread=multi", "-cpu", "Westmere,-cx16"))
BY_NAME = {"kvm": KVM, "tcg": TCG}


def qemu_version() -> str:
    """First line of ``qemu-system-x86_64 --version``; LabError when QEMU is missing."""
    qemu = tools.find("qemu-system-x86_64")
    if qemu is None:
        tools.require(tools.RUN_TOOLS)
    run = subprocess.run([str(qemu), "--version"], capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[0]


def probe_argv(kernel: Path, initrd: Path, accelerator: Accelerator) -> list[str]:
    """QEMU command that boots to a first process that prints the marker on the serial port, and ends."""
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
        *accelerator.arguments, "-m", "256", "-kernel", str(kernel), "-initrd", str(initrd),
        "-append", f'console=ttyS0 quiet panic=-1 rdinit=/bin/sh -- -c "echo {MARKER}"', "-serial", "stdio",
    ]  # fmt: skip


def boots(kernel: Path, initrd: Path, accelerator: Accelerator, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether ``kernel`` reaches its first process under ``accelerator`` within ``timeout_s``."""
    argv = ["setpriv", "--pdeathsig", "KILL", *probe_argv(kernel, initrd, accelerator)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        run = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=os.environ | {"PATH": tools.search_path()},
        )
        return MARKER.encode() in run.stdout
    return False


def choose(kernel: Path, initrd: Path) -> Accelerator:
    """KVM if a probe boot works here, else software emulation; remembered per host kernel and QEMU.

    ``KTLS_LAB_ACCEL=tcg`` or ``kvm`` decides instead of the probe.
    """
    forced = os.environ.get("KTLS_LAB_ACCEL")
    if forced:
        if forced not in BY_NAME:
            message = f"KTLS_LAB_ACCEL={forced}: use kvm or tcg, or unset it"
            raise LabError(message)
        return BY_NAME[forced]
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    place = cache_dir() / "accel" / _probe_key()
    if not place.is_file():
        name = KVM.name if boots(kernel, initrd, KVM) else TCG.name
        place.parent.mkdir(parents=True, exist_ok=True)
        cache.write_atomically(place, name + "\n")
    return BY_NAME[place.read_text(encoding="ascii").strip()]


def host_cpu() -> list[str]:
    """Model and microcode of this machine's CPU: what a KVM guest sees depends on them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return sorted({line for line in lines if line.startswith(("model name", "microcode"))})


def _probe_key() -> str:
    facts = "\n".join((platform.release(), platform.version(), qemu_version(), *host_cpu()))
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
