# SPDX-License-Identifier: Apache-2.0
"""What happens on the two hosts: ``python3 story.py VERB ...`` prints one line of JSON. Standard library only."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from typing import Any

ROOT, AGENT, SIDECAR = "/srv/ktls", "/etc/ktls/agent.json", "/etc/ktls/sidecar.json"
CARD = "sim0"
SIZE = 16 << 20


def run(*argv: str) -> str:
    """Output of a program."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


def change(path: str, **keys: Any) -> None:
    """Change keys of a configuration, in place, so that its owner stays."""
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    found.update(keys)
    with open(path, "r+", encoding="utf-8") as file:
        file.write(json.dumps(found))
        file.truncate()


def prepare(size: str) -> dict[str, Any]:
    """Make the file to serve, give consent, and have the evidence come quickly."""
    data = random.Random(7).randbytes(int(size))
    for name in ("object", "sealed"):
        with open(f"{ROOT}/{name}", "wb") as file:
            file.write(data)
        os.chmod(f"{ROOT}/{name}", 0o644)
    change(AGENT, tls12_consent=True, evidence={"interval_s": 2})
    change(SIDECAR, zerocopy=True)
    # Whoever keeps evidence has the old interval.
    run("sh", "-c", "systemctl stop ktls-diag.service; systemctl restart ktls-sidecar ktls-agent")
    seal(f"{ROOT}/sealed")
    # The first start of a helper takes longer on an emulated CPU than an order waits for it.
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(120)
        sock.connect("/run/ktls-nic.sock")
        sock.sendall(b'{"verb": "status"}\n')
        assert b'"ok": true' in sock.recv(65536)
    return {"sha256": hashlib.sha256(data).hexdigest()}


def seal(path: str) -> None:
    """Make a file immutable: FS_IOC_SETFLAGS with FS_IMMUTABLE_FL (include/uapi/linux/fs.h)."""
    fd = os.open(path, os.O_RDONLY)
    flags = fcntl.ioctl(fd, 0x80086601, bytes(8))
    fcntl.ioctl(fd, 0x40086602, struct.pack("=I4x", struct.unpack_from("=I", flags)[0] | 0x10))
    os.close(fd)


def get(name: str, address: str, port: str, path: str = "/object", seconds: str = "0") -> dict[str, Any]:
    """Download and hash; ``seconds``: at least so long, by reading slowly."""
    context = ssl.create_default_context(cafile=os.path.join(os.path.dirname(__file__), "ca.pem"))
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    raw.settimeout(60)
    raw.connect((address, int(port)))
    sha, got, started, error = hashlib.sha256(), 0, time.monotonic(), ""
    with context.wrap_socket(raw, server_hostname=name) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        match = re.search(rb"(?i)content-length: (\d+)", head)
        assert b" 200 " in head[:16], head
        length = int(match[1]) if match else SIZE
        try:
            while got < length and body:
                sha.update(body)
                got += len(body)
                late = started + float(seconds) * got / length - time.monotonic()
                if late > 0:
                    time.sleep(min(late, 1.0))
                body = sock.recv(65536) if got < length else b""
        except (ssl.SSLError, OSError) as failure:
            error = str(getattr(failure, "reason", None) or failure)
        cipher = sock.cipher()
        took = time.monotonic() - started
        return {
            "version": sock.version(),
            "cipher": cipher and cipher[0],
            "sha256": sha.hexdigest(),
            "whole": got == length,
            "got": got,
            "error": error,
            "seconds": round(took, 1),
        }


def card() -> dict[str, Any]:
    """The card and the kernel, by their own tools."""
    features = {
        name: state.split()[0]
        for name, _, state in (line.strip().partition(": ") for line in run("ethtool", "-k", CARD).splitlines())
        if name in ("tls-hw-tx-offload", "tls-hw-rx-offload")
    }
    counters = {
        name: int(value)
        for name, _, value in (line.strip().partition(": ") for line in run("ethtool", "-S", CARD).splitlines())
        if value.isdigit()
    }
    try:
        with open("/proc/net/tls_stat", encoding="ascii") as file:
            stat = {line.split()[0]: int(line.split()[1]) for line in file}
    except FileNotFoundError:
        stat = {}
    words = run("ss", "-tienH", "state", "established", "sport", "=", ":8443").split()
    conf = [second for first, second in zip(words, words[1:]) if first == "txconf:"]
    return {"features": features, "counters": counters, "stat": stat, "conf": conf, "zerocopy": words.count("zc_ro_tx")}


def flap() -> dict[str, Any]:
    """The link goes down and comes up."""
    run("ip", "link", "set", CARD, "down")
    time.sleep(0.5)
    run("ip", "link", "set", CARD, "up")
    bugs = re.compile(r"BUG:|Oops|Call Trace|WARNING:")
    return {"complaints": [line for line in run("dmesg").splitlines() if bugs.search(line)]}


def off_without_agent() -> dict[str, Any]:
    """Kill the agent, keep it dead, and type ktls-off."""
    run("sh", "-c", "systemctl mask --runtime --now ktls-agent; ktls-off somebody typed it")
    with open("/run/ktls/revert", encoding="utf-8") as file:
        return {"record": file.read().splitlines()}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
