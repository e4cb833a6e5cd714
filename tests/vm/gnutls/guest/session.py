# SPDX-License-Identifier: Apache-2.0
"""One TLS session between two programs of this host, and what was seen of it. Runs on a lab host.

Argument: a JSON object with ``kind`` (a function of KINDS), ``server_policy`` and ``client_policy`` (path of a GnuTLS
configuration file, which may be absent; or null for none). Prints a JSON object: ``sockets`` (the server's end, by
ss), ``tls_stat`` (what was added to the counters), ``sent`` and ``received`` (SHA-256), ``ktls`` (by GnuTLS itself,
where the program tells).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import witness

PORT = 9443
PKI = Path("/etc/ktls-test/pki")
CLIENT_PKI = Path("/etc/ktls-test/client")  # the CA's certificate and nothing else
CA, CERTIFICATE, KEY = (str(PKI / name) for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"))
FILE = "/srv/ktls/large.bin"
LINES = 60

Environment = dict[str, str]
CLIENTS = {
    "gnutls-cli": ["gnutls-cli", "--x509cafile", CA, "--logfile", "/run/gnutls-cli.log", "--port", str(PORT),
                   "localhost"],
    "openssl": ["openssl", "s_client", "-quiet", "-no_ign_eof", "-connect", f"localhost:{PORT}", "-CAfile", CA,
                "-verify_return_error", "-verify_hostname", "localhost"],
}  # fmt: skip


def environment(policy: str | None) -> Environment:
    """The environment of a program that reads its GnuTLS configuration from ``policy``."""
    return {**os.environ, **({} if policy is None else {"GNUTLS_SYSTEM_PRIORITY_FILE": policy})}


@contextmanager
def server(argv: list[str], env: Environment) -> Iterator[subprocess.Popen[str]]:
    """Run a server, ready to be connected to, and end it."""
    process = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        listening = ["ss", "-Htln", f"sport = :{PORT}"]
        deadline = time.monotonic() + 60
        while not subprocess.run(listening, capture_output=True, check=True).stdout.strip():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise SystemExit(f"{argv[0]} does not listen: {process.communicate()}")
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.communicate()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def echo(client: str, server_env: Environment, client_env: Environment) -> dict[str, Any]:
    """Lines of text to gnutls-serv and back, one after the other; then a look at the connection that is still there."""
    argv = ["gnutls-serv", "--echo", "--port", str(PORT), "--x509certfile", CERTIFICATE, "--x509keyfile", KEY,
            "--disable-client-cert"]  # fmt: skip
    sent, received = b"", b""
    with (
        server(argv, server_env),
        subprocess.Popen(
            CLIENTS[client], env=client_env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for _ in range(LINES):
            line = os.urandom(200).hex().encode() + b"\n"
            process.stdin.write(line)
            process.stdin.flush()
            back = process.stdout.readline()
            if not back:
                raise SystemExit(f"{client} ended: {process.stderr.read().decode()}")
            sent, received = sent + line, received + back
        seen = witness.sockets(PORT)
        process.stdin.close()
        process.wait(30)
    return {"sockets": seen, "sent": sha256(sent), "received": sha256(received)}


def send_file(server_env: Environment, client_env: Environment) -> dict[str, Any]:
    """A file, from gnutls_record_send_file to curl."""
    curl = ["curl", "--silent", "--show-error", "--fail", "--cacert", CA, f"https://localhost:{PORT}/"]
    argv = [sys.executable, "-m", f"{__package__}.send_file", str(PORT), CERTIFICATE, KEY, FILE]
    with server(argv, server_env) as process:
        client = subprocess.run(curl, env=client_env, capture_output=True, check=False, timeout=120)
        output, errors = process.communicate(timeout=60)
    if client.returncode != 0 or process.returncode != 0:
        raise SystemExit(f"curl: {client.stderr.decode()} server: {errors}")
    return {"sent": sha256(Path(FILE).read_bytes()), "received": sha256(client.stdout), **json.loads(output)}


def nbd(server_env: Environment, client_env: Environment) -> dict[str, Any]:
    """A disk image, from nbdkit (delayed, so that there is time to look at the connections) to nbdcopy."""
    argv = ["nbdkit", "--foreground", "--port", str(PORT), "--ipaddr", "127.0.0.1", "--tls", "require",
            "--tls-certificates", str(PKI), "--filter", "delay", "file", FILE, "rdelay=1500ms"]  # fmt: skip
    copy = Path("/var/tmp/copy.img")
    copy.unlink(missing_ok=True)
    uri = f"nbds://localhost:{PORT}/?tls-certificates={CLIENT_PKI}"
    with (
        server(argv, server_env),
        subprocess.Popen(
            ["nbdcopy", uri, str(copy)], env=client_env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as client,
    ):
        seen: list[str] = []
        while client.poll() is None:
            # All at work: the connections are made one after the other.
            now = witness.sockets(PORT)
            seen = now if len(now) >= len(seen) else seen
            time.sleep(0.2)
        output = client.communicate()[0]
    if client.returncode != 0:
        raise SystemExit(f"nbdcopy: {output}")
    return {"sockets": seen, "sent": sha256(Path(FILE).read_bytes()), "received": sha256(copy.read_bytes())}


KINDS: dict[str, Callable[[Environment, Environment], dict[str, Any]]] = {
    "echo-gnutls-cli": lambda *environments: echo("gnutls-cli", *environments),
    "echo-openssl": lambda *environments: echo("openssl", *environments),
    "send-file-curl": send_file,
    "nbdkit-nbdcopy": nbd,
}


def main() -> None:
    wanted = json.loads(sys.argv[1])
    before = witness.tls_stat()
    result = KINDS[wanted["kind"]](environment(wanted["server_policy"]), environment(wanted["client_policy"]))
    print(json.dumps({**result, "tls_stat": witness.added(before)}))


if __name__ == "__main__":
    main()
