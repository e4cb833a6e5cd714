# SPDX-License-Identifier: Apache-2.0
"""Runs on the host under test, as root: ``python3 guest.py VERB``. Prints one JSON object. Standard library only."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

LAPSED, LEASE = "/run/ktls/lapsed", "/var/lib/ktls/lease"


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


def helpers() -> dict[str, Any]:
    """What each helper answers to whom."""
    found: dict[str, Any] = {"status": {}}
    for name, verb in (
        ("lease", "arm"), ("lease", "disarm"), ("module", "load"), ("module", "unload"), ("nic", "off"),
        ("nic", "restore"),
    ):  # fmt: skip
        found[f"{name} {verb}"] = ask_as("ktls-agent", name, verb)
        if name == "lease":
            state = ["systemctl", "is-active", "ktls-lease.timer"]
            found[f"after {verb}"] = subprocess.run(state, capture_output=True, text=True, check=False).stdout.strip()
        if name == "module":
            found[f"after {verb}"] = os.path.exists("/sys/module/tls")
    ask("module", "load")
    found["nobody"] = ask_as("nobody", "lease", "arm")
    # The mode of the socket is one lock; the identity of the peer is another.
    os.chmod("/run/ktls-lease.sock", 0o666)
    found["nobody past the mode"] = ask_as("nobody", "lease", "arm")
    os.chmod("/run/ktls-lease.sock", 0o660)
    return found


def lapse() -> dict[str, Any]:
    """Seconds from a deadline until the flag is up, while the clock is set back and forth."""
    deadline = put_lease(4.0)
    armed = ask("lease", "arm")
    before = os.path.lexists(LAPSED)
    now = time.time()
    time.clock_settime(time.CLOCK_REALTIME, now + 3600)
    while uptime() < deadline - 1:
        time.sleep(0.05)
    too_early = os.path.lexists(LAPSED)
    time.clock_settime(time.CLOCK_REALTIME, now - 3600)
    while not os.path.lexists(LAPSED) and uptime() < deadline + 20:
        time.sleep(0.01)
    late = uptime() - deadline
    time.clock_settime(time.CLOCK_REALTIME, now + 5)
    while not os.path.exists(f"{LEASE}.reverted") and uptime() < deadline + 30:
        time.sleep(0.01)
    return {"armed": armed, "before": before, "too_early": too_early, "late_s": late, "all_s": uptime() - deadline}


def hard() -> dict[str, Any]:
    """The same on a read-only /var/lib/ktls, with a full disk."""
    run = subprocess.run
    run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/var/lib/ktls"], check=True)
    try:
        deadline = put_lease(1.0)
        run(["mount", "-o", "remount,ro", "/var/lib/ktls"], check=True)
        run("cat /dev/zero >/var/tmp/fill; sync", shell=True, capture_output=True, check=False)
        armed = ask("lease", "arm")
        started = uptime()
        while not os.path.exists("/run/ktls/revert") and uptime() < started + 30:
            time.sleep(0.05)
        late = uptime() - max(started, deadline)
        first = _invocations()
        time.sleep(3)
        return {
            "armed": armed, "late_s": late, "lapsed": os.path.lexists(LAPSED), "lease": os.path.exists(LEASE),
            "record": _record(), "quiet": _invocations() == first, "state": _state("ktls-lease.service"),
        }  # fmt: skip
    finally:
        ask("lease", "disarm")
        run(["rm", "-f", "/var/tmp/fill"], check=False)
        run(["umount", "/var/lib/ktls"], check=True)


def _invocations() -> str:
    done = subprocess.run(
        ["journalctl", "-q", "-o", "cat", "-b", "-u", "ktls-lease.service"], capture_output=True, text=True, check=False
    )
    return done.stdout


def _state(unit: str) -> str:
    done = subprocess.run(["systemctl", "show", "-p", "Result", "--value", unit], capture_output=True, check=False)
    return done.stdout.decode().strip()


def _record() -> list[str]:
    with open("/run/ktls/revert", encoding="utf-8") as stream:
        return stream.read().splitlines()


def main() -> None:
    """Run the verb."""
    verb, *arguments = sys.argv[1:]
    if verb == "put":
        put_lease(float(arguments[0]))
    verbs: dict[str, Callable[..., Any]] = {"ask": ask, "helpers": helpers, "lapse": lapse, "hard": hard, "put": dict}
    print(json.dumps(verbs[verb](*(arguments if verb == "ask" else ()))))


if __name__ == "__main__":
    main()
