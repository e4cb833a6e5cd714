# SPDX-License-Identifier: Apache-2.0
"""Before anything is measured: both servers serve the same bytes over the same TLS, and kTLS is where it should be."""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import subprocess

from bench.errors import BenchError
from bench.servers import Server
from bench.settings import CIPHER
from bench.stage import Stage

_SAME = ("Protocol version", "Ciphersuite", "Hash used", "Signature type", "Verification", "Server Temp Key",
         "Peer Temp Key", "Negotiated TLS1.3 group")  # fmt: skip


def parse_brief(text: str) -> dict[str, str]:
    """Return what ``openssl s_client -brief`` says about the connection, by its own words."""
    found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return {name: value.strip() for name, value in found.items() if name in _SAME}


def ktls_lines(text: str, port: int) -> tuple[bool, bool]:
    """Return whether a socket whose own port is ``port`` has kTLS for (sending, receiving), after ``ss -tienHO``.

    The ULP alone is no proof: some OpenSSL attach it to sockets that they never give keys to.
    """
    sending = receiving = False
    for line in text.splitlines():
        own = re.search(r"\s\S+:(\d+)\s+\S+:\d+\s", line)
        if own is not None and int(own[1]) == port and "tcp-ulp-tls" in line:
            sending = sending or "txconf: sw" in line or "txconf: hw" in line
            receiving = receiving or "rxconf: sw" in line or "rxconf: hw" in line
    return sending, receiving


def check(server: Server, stage: Stage, path: str, ktls: bool) -> dict[str, str]:
    """Download ``path`` with verification; return what the connection is like. Raises BenchError.

    ``ktls``: whether the kernel must encrypt what this server sends; if not, it must not.
    """
    context = ssl.create_default_context(cafile=str(stage.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=120)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        sock = connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        version, cipher = sock.version(), (sock.cipher() or ("none",))[0]
        sending, receiving = ktls_lines(_ss(), server.port)
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{server.name}: cannot download {path}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200 or hashlib.sha256(body).hexdigest() != stage.hashes[path]:
        raise BenchError(f"{server.name} does not serve {path} as it is (status {answer.status}, {len(body)} bytes)")
    if (version, cipher) != ("TLSv1.3", CIPHER):
        raise BenchError(f"{server.name} chose {version} {cipher}, this benchmark is about TLSv1.3 {CIPHER}")
    if sending != ktls:
        if ktls:
            raise BenchError(f"{server.name} does not send with kTLS; load the kernel's part of it: modprobe tls")
        raise BenchError(f"{server.name} sends with kTLS, so this would not compare userspace TLS")
    return {**_brief(server, stage), "kTLS sending": _yes(sending), "kTLS receiving": _yes(receiving)}


def same(first: dict[str, str], second: dict[str, str]) -> None:
    """Raise BenchError when the connections differ in more than where the kernel receives."""
    for name in (set(first) | set(second)) - {"kTLS receiving"}:
        if first.get(name) != second.get(name):
            raise BenchError(f"the servers differ in {name!r}: {first.get(name)} and {second.get(name)}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _ss() -> str:
    ran = subprocess.run(["ss", "-tienHO", "state", "established"], capture_output=True, text=True, check=False)
    return ran.stdout


def _brief(server: Server, stage: Stage) -> dict[str, str]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", "-brief"]
    command += ["-CAfile", str(stage.certificate), "-verify_return_error"]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    found = parse_brief(ran.stderr + ran.stdout)
    if found.get("Verification") != "OK":
        raise BenchError(f"{server.name}: openssl s_client does not verify it: {' '.join(ran.stderr.split())[:300]}")
    return found
