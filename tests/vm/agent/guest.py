# SPDX-License-Identifier: Apache-2.0
"""Runs on the host under test, as root: ``python3 guest.py VERB``. Prints one JSON object. Standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAPSED, LEASE, MODULE = "/run/ktls/lapsed", "/var/lib/ktls/lease", "/sys/module/tls"


def uptime() -> float:
    """Seconds since boot, as /proc/uptime has them (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def ask(name: str, verb: str) -> Any:
    """One request to a helper."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(f"/run/ktls-{name}.sock")
        sock.sendall(json.dumps({"verb": verb}).encode() + b"\n")
        return json.loads(sock.makefile().readline())


def ask_as(user: str, name: str, verb: str) -> Any:
    """The same as another user, with that user's groups."""
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", sys.executable, __file__]
    if user == "nobody":
        command[2:4] = ["--regid=nogroup", "--clear-groups"]
    done = subprocess.run([*command, "ask", name, verb], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def put_lease(left_s: float) -> float:
    """Write a lease as the agent does, durable when this returns; returns its deadline."""
    deadline = uptime() + left_s
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        boot_id = stream.read().strip()
    with open(LEASE, "w", encoding="ascii") as stream:
        stream.write(f"id=by-hand\nepoch=7\nboot_id={boot_id}\ndeadline_s={deadline:.2f}\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.chown(LEASE, os.stat(os.path.dirname(LEASE)).st_uid, -1)
    return deadline


def fresh() -> None:
    """No flag, no lease, nothing recorded, and the sidecar in tx: what an agent that has died leaves behind."""
    for path in ("/run/ktls/off", LAPSED, "/run/ktls/revert", "/var/lib/ktls/off", LEASE, f"{LEASE}.reverted"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/run/ktls-sidecar/control.sock")
        sock.sendall(b'{"verb": "mode", "mode": "tx"}\n')
        answer = json.loads(sock.makefile().readline())
    assert answer["effective_mode"] == "tx", answer
    assert is_ktls()


def curl(*options: str) -> list[str]:
    """A download that verifies the certificate."""
    name = socket.getfqdn()
    url = f"https://{name}:8443/large.bin"
    return [
        "curl", "-sS", "-o", "/dev/null", "--cacert", "/etc/ktls/tls/ca.pem", "--resolve", f"{name}:8443:127.0.0.1",
        *options, url,
    ]  # fmt: skip


def is_ktls() -> bool:
    """Whether a connection that starts now is sent by the kernel: its own counter says so."""
    before = tls_stat("TlsTxSw")
    subprocess.run(curl("-r", "0-9999"), check=True)
    return tls_stat("TlsTxSw") > before


def tls_stat(name: str) -> int:
    """One counter; 0 without the module."""
    try:
        with open("/proc/net/tls_stat", encoding="ascii") as stream:
            return {key: int(value) for key, value in (line.split() for line in stream)}[name]
    except FileNotFoundError:
        return 0


def until(check: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Wait for ``check``."""
    end = uptime() + limit_s
    while not check() and uptime() < end:
        time.sleep(0.02)


def fill(path: str) -> None:
    """Take all the room of a disk, to the last block, without writing it."""
    with open(path, "xb") as stream:
        size, step = 0, 1 << 30
        while step >= 4096:
            if _took(stream.fileno(), size, step):
                size += step
            else:
                step //= 2
    with contextlib.suppress(OSError):
        with open(f"{path}.more", "wb") as stream:
            stream.write(b"x" * 8192)
        raise AssertionError("the disk is not full")


def _took(descriptor: int, offset: int, length: int) -> bool:
    with contextlib.suppress(OSError):
        os.posix_fallocate(descriptor, offset, length)
        return True
    return False


def record() -> dict[str, str]:
    """What ktls-off has recorded: step to result and detail."""
    with contextlib.suppress(FileNotFoundError), open("/run/ktls/revert", encoding="utf-8") as stream:
        return {step: rest for step, _, rest in (line.rstrip("\n").partition(" ") for line in stream)}
    return {}


def out(*argv: str) -> str:
    """Output of a program, whatever its exit status."""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def unused() -> None:
    """Wait until no connection keeps the module: one that is closed may do so until its peer has said goodbye."""
    until(lambda: Path(f"{MODULE}/refcnt").read_text(encoding="ascii").strip() == "0")


def helpers() -> dict[str, Any]:
    """What each helper answers to whom."""
    found: dict[str, Any] = {}
    unused()
    for name, verb in (("lease", "arm"), ("lease", "disarm"), ("module", "unload"), ("module", "load"), ("nic", "off")):
        found[f"{name} {verb}"] = ask_as("ktls-agent", name, verb)
        after = out("systemctl", "is-active", "ktls-lease.timer") if name == "lease" else os.path.exists(MODULE)
        found[f"after {verb}"] = after
    found["nobody"] = ask_as("nobody", "lease", "arm")
    # The mode of the socket is one lock; the identity of the peer is another.
    os.chmod("/run/ktls-lease.sock", 0o666)
    found["nobody past the mode"] = ask_as("nobody", "lease", "arm")
    os.chmod("/run/ktls-lease.sock", 0o660)
    return found


def lapse() -> dict[str, Any]:
    """Seconds from a deadline until the flag is up, while the clock is set back and forth."""
    fresh()
    # An interface that the lever has changed, as far as its records go: ethtool must work in the unit's sandbox.
    card = next(name for name in sorted(os.listdir("/sys/class/net")) if name.startswith("e"))
    mark = f"/var/lib/ktls-levers/offload:{card}.json"
    with open(mark, "x", encoding="ascii"):
        pass
    started = uptime()
    armed = ask("lease", "arm")
    took = uptime() - started
    deadline = put_lease(3.0)
    now = time.time()
    time.clock_settime(time.CLOCK_REALTIME, now + 3600)
    until(lambda: uptime() > deadline - 0.5)
    early = os.path.lexists(LAPSED)
    time.clock_settime(time.CLOCK_REALTIME, now - 3600)
    until(lambda: os.path.lexists(LAPSED))
    late = uptime() - deadline
    time.clock_settime(time.CLOCK_REALTIME, now + uptime() - deadline + 3)
    until(lambda: os.path.exists(f"{LEASE}.reverted"))
    done = uptime() - deadline
    new = is_ktls()
    said = out("journalctl", "-q", "-b", "-o", "cat", "-u", "ktls-lease.service")
    ask("lease", "disarm")
    os.unlink(mark)
    return {
        "armed": armed, "arm_s": took, "early": early, "late_s": late, "done_s": done, "new_is_ktls": new, "said": said,
        "record": record(), "card": card,
    }  # fmt: skip


def hard() -> dict[str, Any]:
    """The same with a read-only /var/lib/ktls and a full disk."""
    fresh()
    run = subprocess.run
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/var/lib/ktls"], check=True)
    try:
        put_lease(0.0)
        run(["mount", "-o", "remount,ro", "/var/lib/ktls"], check=True)
        fill("/var/tmp/fill")
        started = uptime()
        armed = ask("lease", "arm")
        until(lambda: "lease" in record())
        done = uptime() - started
        new = is_ktls()
        first = os.stat("/run/ktls/revert")
        time.sleep(3)
        return {
            "armed": armed, "done_s": done, "new_is_ktls": new, "lease": os.path.exists(LEASE), "record": record(),
            "once": os.stat("/run/ktls/revert").st_ino == first.st_ino,
            "state": out("systemctl", "show", "-p", "Result", "--value", "ktls-lease.service"),
        }  # fmt: skip
    finally:
        ask("lease", "disarm")
        run(["rm", "-f", "/var/tmp/fill", "/var/tmp/fill.more"], check=False)
        run(["umount", "/var/lib/ktls"], check=True)


def off() -> dict[str, Any]:
    """``ktls-off --unload-module`` during a download, and after it."""
    fresh()
    # Or the connection of that proof is taken for the download, which has not begun.
    until(lambda: tls_stat("TlsCurrTxSw") == 0)
    slow = subprocess.Popen(curl("--limit-rate", "50k"))
    until(lambda: tls_stat("TlsCurrTxSw") > 0)
    started = uptime()
    subprocess.run(["ktls-off", "--unload-module", "why"], check=True, stdout=subprocess.DEVNULL)
    took, first, new = uptime() - started, record(), is_ktls()
    slow.kill()
    slow.wait()
    unused()
    subprocess.run(["ktls-off", "--unload-module", "why"], check=True, stdout=subprocess.DEVNULL)
    second = record()
    subprocess.run(["modprobe", "tls"], check=True)
    return {"took_s": took, "first": first, "new_is_ktls": new, "second": second}


def put() -> dict[str, Any]:
    """A lease of ten minutes."""
    put_lease(600.0)
    return {}


def one() -> dict[str, Any]:
    """Whether a connection that starts now is sent by the kernel."""
    return {"is_ktls": is_ktls()}


def main() -> None:
    """Run the verb."""
    verb, *arguments = sys.argv[1:]
    verbs: dict[str, Callable[..., Any]] = {
        "ask": ask, "helpers": helpers, "lapse": lapse, "hard": hard, "off": off, "put": put,
        "is-ktls": one,
    }  # fmt: skip
    print(json.dumps(verbs[verb](*arguments)))


if __name__ == "__main__":
    main()
