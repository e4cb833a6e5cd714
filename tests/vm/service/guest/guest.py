# SPDX-License-Identifier: Apache-2.0
"""What a client and the kernel say of a service on this host: one JSON object, by verb."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CA = "/etc/ssl/files-ca.pem"
NAME = "files.test"


def new(port: int) -> dict[str, Any]:
    """Shake hands, verified, ask for one byte, and look at the server's end of that very connection."""
    context = ssl.create_default_context(cafile=CA)
    raw = socket.create_connection(("127.0.0.1", port), 20)
    with raw, context.wrap_socket(raw, server_hostname=NAME) as tls:
        tls.sendall(f"GET /big.bin HTTP/1.1\r\nHost: {NAME}\r\nRange: bytes=0-0\r\n\r\n".encode())
        tls.recv(65536)
        ask = ["ss", "-Htine", f"sport = :{port} and dport = :{tls.getsockname()[1]}"]
        shown = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    found = re.search(r"tcp-ulp-tls version: \S+ cipher: \S+ rxconf: (\S+) txconf: (\S+)", shown)
    return {"ktls": found is not None, "rx": found and found[1], "tx": found and found[2]}


def get(port: int) -> dict[str, Any]:
    """Download by curl, verified, and compare with the file."""
    url = f"https://{NAME}:{port}/big.bin"
    done = subprocess.run(["curl", "-sS", "--fail", "--http1.1", "--cacert", CA, url], capture_output=True, check=False)
    whole = hashlib.sha256(Path("/var/www/html/big.bin").read_bytes()).hexdigest()
    return {"rc": done.returncode, "same": hashlib.sha256(done.stdout).hexdigest() == whole, "bytes": len(done.stdout)}


def main_pid(unit: str) -> dict[str, Any]:
    """Which process it runs as."""
    show = ["systemctl", "show", "--property=MainPID", "--value", unit]
    return {"pid": int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)}


def etc() -> dict[str, str]:
    """Each file of the configuration that is about services, by hash, with its mode and owner."""
    found = {}
    for top in ("/etc/lighttpd", "/etc/systemd/system", "/etc/ktls-fleet"):
        for path in sorted(Path(top).rglob("*")):
            status = path.lstat()
            content = os.readlink(path) if path.is_symlink() else ""
            if path.is_file() and not path.is_symlink():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            if not path.name.startswith("ktls-") and path.suffix != ".wants":  # of agent and helpers, which stay
                found[str(path)] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {content}"
    return found


VERBS: dict[str, Callable[..., dict[str, Any]]] = {"new": new, "get": get, "pid": main_pid, "etc": etc}

if __name__ == "__main__":
    arguments = [int(word) if word.isdigit() else word for word in sys.argv[2:]]
    print(json.dumps(VERBS[sys.argv[1]](*arguments)))
