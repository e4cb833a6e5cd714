#!/usr/bin/python3 -I
# SPDX-License-Identifier: Apache-2.0
"""The lab's resident in a VM: gives a restored clone its identity and its clock.

It runs inside the guest (Python 3.9 and later, standard library only) and talks JSON lines over a virtio-serial
port with the control node: {"verb": "identity", ...}, {"verb": "time", "time": s}, {"verb": "ping"}.
A snapshot is taken while it blocks on that port, so a clone reacts as soon as it is restored.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PORT = Path("/dev/virtio-ports/ktls.lab.0")
STATE = Path("/etc/ktls-lab")
IDENTITY = STATE / "identity"  # ssh.service starts only when this exists
BOOT_TIMEOUT_S = 300.0
PYTHON_MODULES = (
    "argparse, asyncio, ctypes, datetime, glob, grp, hashlib, http.client, ipaddress, json, locale, logging, platform, "
    "pwd, queue, runpy, shutil, ssl, stat, subprocess, syslog, tempfile, traceback, uuid, zipfile, zipimport"
)

# random(4): _IOW('R', 0x03, int[2]) and _IO('R', 0x07) of linux/random.h.
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207


def write_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``path`` atomically; durable once os.sync() was called."""
    temporary = path.with_name(path.name + ".ktls-lab")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    temporary.rename(path)


def reseed(seed: bytes) -> None:
    """Make this clone's random numbers its own: mix ``seed`` in and rekey the kernel's generator at once."""
    with open("/dev/urandom", "wb", buffering=0) as device:
        request = struct.pack("ii", len(seed) * 8, len(seed)) + seed
        fcntl.ioctl(device, RNDADDENTROPY, request)
        fcntl.ioctl(device, RNDRESEEDCRNG)
    write_seed = Path("/var/lib/systemd/random-seed")
    if write_seed.parent.is_dir():
        write_seed.write_bytes(os.urandom(512))
        write_seed.chmod(0o600)


def set_clock(seconds: float) -> None:
    """Step the wall clock: the one in a restored snapshot is as old as the snapshot."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def take_identity(message: dict[str, Any]) -> None:
    """Become the host that ``message`` describes, now and after every later boot."""
    reseed(base64.b64decode(message["seed"]))
    set_clock(message["time"])
    socket.sethostname(message["hostname"])
    write_file(Path("/etc/hostname"), message["hostname"] + "\n")
    write_file(Path("/etc/hosts"), message["hosts"])
    write_file(Path("/etc/machine-id"), message["machine_id"] + "\n", 0o444)
    write_file(Path("/etc/ssh/ssh_host_ed25519_key"), message["host_key"], 0o600)
    write_file(Path("/etc/ssh/ssh_host_ed25519_key.pub"), message["host_key_pub"])
    ssh_home = Path("/root/.ssh")
    ssh_home.mkdir(mode=0o700, exist_ok=True)
    write_file(ssh_home / "authorized_keys", message["authorized_keys"], 0o600)
    write_file(STATE / "private", f"MAC={message['mac']}\nADDRESS={message['address']}\n")
    write_file(IDENTITY, message["hostname"] + "\n")
    subprocess.run(["/usr/local/lib/ktls-lab/net"], check=True)
    # journalctl looks below the machine-id, so the journal has to be opened anew under the new one.
    for old in Path("/var/log/journal").iterdir():
        shutil.rmtree(old, ignore_errors=True)
    subprocess.run(["systemctl", "restart", "--no-block", "systemd-journald.service"], check=True)
    subprocess.run(["systemctl", "start", "ssh.service"], check=True)
    os.sync()


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """Do what one request asks and return the response object."""
    verb = message.get("verb")
    if verb == "identity":
        take_identity(message)
    elif verb == "time":
        set_clock(message["time"])
    elif verb != "ping":
        return {"ok": False, "error": f"unknown verb {verb!r}"}
    return {
        "ok": True,
        "id": message.get("id"),
        "hostname": socket.gethostname(),
        "machine_id": Path("/etc/machine-id").read_text(encoding="ascii").strip(),
        "time": time.time(),
    }


def settle() -> None:
    """Wait until the boot is over, then load into memory what every lab run uses first."""
    subprocess.run(
        ["systemctl", "is-system-running", "--wait"], stdout=subprocess.DEVNULL, check=False, timeout=BOOT_TIMEOUT_S
    )
    warm_up = (
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/ktls-lab-warm-up"],
        ["sshd", "-t", "-h", "/run/ktls-lab-warm-up"],
        ["bash", "-lc", "echo ~; uname -a; test -d /tmp"],
        ["python3", "-c", f"import {PYTHON_MODULES}"],
        ["sh", "-c", "cat /usr/lib/openssh/* /usr/bin/scp"],
        ["ss", "-tine"],
        ["openssl", "version"],
        ["ip", "-j", "addr"],
        ["systemctl", "show", "ssh.service"],
        ["journalctl", "-n", "1"],
    )
    for command in warm_up:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    for leftover in Path("/run").glob("ktls-lab-warm-up*"):
        leftover.unlink()
    os.sync()


def serve(port: int) -> None:
    """Answer requests for ever. A port without a peer reads as end of file at once, so poll it slowly."""
    buffer = b""
    while True:
        chunk = os.read(port, 65536)
        if not chunk:
            buffer = b""
            time.sleep(1.0 if IDENTITY.exists() else 0.1)
            continue
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            if not line.strip():
                continue
            try:
                response = answer(json.loads(line))
            except Exception as error:
                response = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            os.write(port, json.dumps(response).encode() + b"\n")


def main() -> int:
    """Say that the boot is over when there is no identity yet; then serve."""
    while not PORT.exists():
        time.sleep(0.1)
    port = os.open(PORT, os.O_RDWR)
    if not IDENTITY.exists():
        settle()
        os.write(port, b'{"ok": true, "event": "ready"}\n')
    serve(port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
