# SPDX-License-Identifier: Apache-2.0
"""The sidecar on real kernels: transmit-only kTLS, proved from outside the sidecar.

The witnesses are ss (sock_diag), /proc/net/tls_stat, the kernel's system call trace and the SHA-256 of what
arrives. The sidecar runs under its shipped unit, unprivileged and sandboxed, from the source tree.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import pytest

from ktls_lab import api
from tests.unit.sidecar.support import Client, eventually

from ..conftest import StartLab

REPOSITORY = Path(__file__).parents[3]
HOST = "web1"
LARGE = 4 * 1024 * 1024
HUGE = 24 * 1024 * 1024
# Image, and a suffix for the name of its lab (a lab name has 31 letters at most).
IMAGES = {"debian13": "sc-13", "debian12": "sc-12", "debian13-backports": "sc-bpo"}
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

SETUP = """set -e
groupadd -r ktls 2>/dev/null || true
useradd -r -G ktls ktls-sidecar 2>/dev/null || usermod -aG ktls ktls-sidecar
mkdir -p /etc/ktls/tls /run/ktls /var/lib/ktls
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost -keyout /etc/ktls/tls/key.pem -out /etc/ktls/tls/cert.pem 2>/dev/null
chmod 600 /etc/ktls/tls/key.pem; chmod 644 /etc/ktls/tls/cert.pem
printf '#!/bin/sh\\nPYTHONPATH=/opt/sidecar exec python3 -m ktls_sidecar "$@"\\n' > /usr/local/bin/ktls-sidecar
chmod 755 /usr/local/bin/ktls-sidecar
cat > /etc/ktls/sidecar.json <<'X'
{"certificate": "/etc/ktls/tls/cert.pem", "root": "/srv/ktls", "key_update_memory_s": 30}
X
cat > /root/ctl.py <<'X'
import json, sys
sys.path.insert(0, "/opt/sidecar")
from ktls_host.jsonsock import JsonSockError, call
try:
    print(json.dumps(call("/run/ktls-sidecar/control.sock", json.loads(sys.argv[1]), 20)))
except JsonSockError as error:
    print(json.dumps({"ok": False, "code": error.code}))
X
head -c 25165824 /dev/urandom > /srv/ktls/huge.bin
cp /opt/sidecar/ktls-sidecar.service /etc/systemd/system/
systemctl daemon-reload
systemctl start ktls-sidecar
cat /etc/ktls/tls/cert.pem
"""


def source_tree() -> bytes:
    """The packages and the unit, as an uncompressed tar archive."""
    buffer = io.BytesIO()
    h11_directory = Path(h11.__file__).parent
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for directory in (REPOSITORY / "agent/ktls_sidecar", REPOSITORY / "agent/ktls_host", h11_directory):
            for path in sorted(directory.rglob("*.py")):
                if "tests" not in path.parts[len(directory.parts) :]:
                    archive.add(path, str(Path(directory.name) / path.relative_to(directory)))
        archive.add(REPOSITORY / "agent/units/ktls-sidecar.service", "ktls-sidecar.service")
    return buffer.getvalue()


@dataclass
class Sidecar:
    """The sidecar on one VM, and the kernel's view of it."""

    lab: api.Lab
    ca: Path

    def run(self, script: str, timeout: float = 120) -> str:
        done = self.lab.ssh(HOST, ["bash", "-c", script], timeout=timeout)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def call(self, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.lab.ssh(HOST, ["python3", "/root/ctl.py", json.dumps(request)]).stdout)
        return answer

    def client(self, **options: Any) -> Client:
        return Client(self.lab.https_port(HOST), self.ca, timeout_s=60, **options)

    def sockets(self) -> list[str]:
        """What ss says of established connections to the sidecar, one string each."""
        text = self.run("ss -tieOH state established sport = :8443")
        return [line for line in text.splitlines() if line.strip()]

    def tls_stat(self) -> dict[str, int]:
        text = self.run("cat /proc/net/tls_stat")
        return {name: int(value) for name, value in (line.split() for line in text.splitlines())}

    def sha256(self, name: str) -> str:
        return self.run(f"sha256sum /srv/ktls/{name}").split()[0]

    def sendfile_calls(self, path: str) -> int:
        """Download ``path`` and return how often the sidecar called sendfile(2) meanwhile, by the kernel's trace."""
        pids = " || ".join(f"common_pid == {worker['pid']}" for worker in self.call(verb="status")["workers"])
        event = "/sys/kernel/tracing/events/syscalls/sys_enter_sendfile64"
        start = f"echo '{pids}' > {event}/filter; echo > /sys/kernel/tracing/trace; echo 1 > {event}/enable"
        self.run(start)
        try:
            with self.client() as client:
                assert client.get(path).status == 200
        finally:
            self.run(f"echo 0 > {event}/enable")
        return int(self.run("grep -c 'sys_sendfile64(' /sys/kernel/tracing/trace || true"))


#: What depends on kernel and OpenSSL runs on every image, the rest on the first.
everywhere = pytest.mark.parametrize("sidecar", list(IMAGES), indirect=True, scope="module")
once = pytest.mark.parametrize("sidecar", list(IMAGES)[:1], indirect=True, scope="module")


@pytest.fixture(scope="module")
def sidecar(
    request: pytest.FixtureRequest,
    start_lab: StartLab,
    lab_images: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Sidecar]:
    """A fresh VM of each image, the tls module not loaded, the sidecar started."""
    lab_images(request.param)
    lab = start_lab(IMAGES[request.param], hosts=1, image=request.param)
    unpack = lab.ssh_argv(HOST, "mkdir -p /opt/sidecar && tar -C /opt/sidecar -xf -")
    subprocess.run(unpack, input=source_tree(), check=True, timeout=60)
    done = lab.ssh(HOST, ["bash", "-c", SETUP], timeout=180)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{lab.ssh(HOST, 'journalctl -u ktls-sidecar').stdout}"
    ca = tmp_path_factory.mktemp("ca") / "cert.pem"
    ca.write_text(done.stdout)
    yield Sidecar(lab, ca)
    lab.down()


@pytest.fixture
def tx(sidecar: Sidecar) -> Sidecar:
    """The same, module loaded, mode tx, no flag."""
    sidecar.run("modprobe tls; rm -f /run/ktls/off /var/lib/ktls/off")
    assert sidecar.call(verb="mode", mode="tx")["effective_mode"] == "tx"
    return sidecar


@once
def test_without_the_module_the_client_notices_nothing(sidecar: Sidecar) -> None:
    """First, because loading the module cannot be undone while a socket holds it."""
    assert sidecar.run("lsmod | grep -c '^tls ' || true").strip() == "0"
    assert sidecar.call(verb="mode", mode="tx")["effective_mode"] == "tx"
    with sidecar.client(alpn=["h2", "http/1.1"]) as client:
        # The ALPN callback works under MemoryDenyWriteExecute=.
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        body = client.get("/large.bin").body
    assert hashlib.sha256(body).hexdigest() == sidecar.sha256("large.bin")
    status = sidecar.call(verb="status")
    assert status["fallbacks"] == {"no_tls_ulp": 1}
    assert status["connections_total"] == {"ktls_tx": 0, "userspace": 1}
    assert status["errors"] == {}
    assert sidecar.run("lsmod | grep -c '^tls ' || true").strip() == "0"


@once
def test_userspace_mode_attaches_nothing(sidecar: Sidecar) -> None:
    sidecar.run("modprobe tls")
    assert sidecar.call(verb="mode", mode="userspace")["effective_mode"] == "userspace"
    before = sidecar.tls_stat()
    for version in VERSIONS.values():
        with sidecar.client(version=version) as client:
            client.get("/small.bin")
            (line,) = sidecar.sockets()
            assert "tcp-ulp" not in line
    assert sidecar.tls_stat() == before
    assert sidecar.sendfile_calls("/large.bin") == 0
    # No socket holds the module.
    sidecar.run("modprobe -r tls")


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        ("1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("1.2", "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("1.3", None),
    ],
)
@everywhere
def test_the_kernel_encrypts_and_does_not_decrypt(tx: Sidecar, version: str, ciphers: str | None) -> None:
    before, counted = tx.tls_stat(), tx.call(verb="status")
    with tx.client(version=VERSIONS[version], ciphers=ciphers) as client:
        body = client.get("/large.bin").body
        (line,) = tx.sockets()
        assert f"tcp-ulp-tls version: {version}" in line
        assert "txconf: sw" in line
        assert "rxconf: none" in line
        during, status = tx.tls_stat(), tx.call(verb="status")
        # Still in step, both ways, after records of both kinds.
        assert client.get("/small.bin").status == 200
    assert hashlib.sha256(body).hexdigest() == tx.sha256("large.bin")
    assert during["TlsTxSw"] - before["TlsTxSw"] == 1
    assert during["TlsCurrTxSw"] == 1
    assert during["TlsRxSw"] == before["TlsRxSw"] == 0
    assert during["TlsCurrRxSw"] == 0
    assert status["connections"] == {"ktls_tx": 1, "userspace": 0}
    moved = {name: status["bytes"][name] - counted["bytes"][name] for name in status["bytes"]}
    assert moved["userspace"] == 0
    assert LARGE < moved["ktls_tx"] < LARGE + 1000
    (row,) = [row for row in status["by"] if row["connections"]]
    assert (row["path"], row["protocol"]) == ("ktls_tx", f"TLSv{version}")
    assert ciphers is None or row["cipher"] == ciphers
    assert status["errors"] == {}


@pytest.fixture
def rx(tx: Sidecar) -> Sidecar:
    """The same in mode rx."""
    assert tx.call(verb="mode", mode="rx")["effective_mode"] == "rx"
    return tx


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@everywhere
def test_the_kernel_does_both(rx: Sidecar, version: str) -> None:
    """Where OpenSSL moves the receiving side; 3.0 does not for TLS 1.3, and that is counted."""
    moves = version == "1.2" or openssl_version(rx) >= (3, 2)
    before, counted = rx.tls_stat(), rx.call(verb="status")
    request = b"GET /small.bin HTTP/1.1\r\nHost: x\r\n\r\n"
    with rx.client(version=VERSIONS[version]) as client:
        body = client.get("/large.bin").body
        (line,) = rx.sockets()
        assert "txconf: sw" in line
        assert ("rxconf: sw" if moves else "rxconf: none") in line
        status, during = rx.call(verb="status"), rx.tls_stat()
        # Pipelined, in pieces, and more than one record at a time: nothing may wait for an event that does not come.
        client.send(request + request[:20])
        client.send(request[20:])
        client.send(request)
        for _ in range(3):
            assert client.response().status == 200
        client.send(b"GET /none HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n" + bytes(40000))
        assert client.response().status == 404
        # The client's close_notify is a record that is not data: the kernel says EIO to who does not ask for its type.
        client.sock.unwrap()
    assert hashlib.sha256(body).hexdigest() == rx.sha256("large.bin")
    assert status["connections"] == {"ktls_tx": 1, "userspace": 0}
    assert status["ktls_rx"]["connections"] == int(moves)
    (row,) = [row for row in status["by"] if row["connections"]]
    assert (row["assigned"], row["path"]) == ("rx", "ktls_tx_rx" if moves else "ktls_tx")
    fallen = status["fallbacks"].get("rx:openssl", 0) - counted["fallbacks"].get("rx:openssl", 0)
    assert fallen == int(not moves)
    assert during["TlsRxSw"] - before["TlsRxSw"] == int(moves)
    eventually(lambda: rx.tls_stat()["TlsCurrRxSw"] == 0, 20)
    after = rx.call(verb="status")
    assert after["errors"] == counted["errors"]
    assert after["client_aborts"] == counted["client_aborts"]


@once
def test_a_share_of_the_connections(tx: Sidecar) -> None:
    assert tx.call(verb="mode", mode="tx", share=0.5)["share"] == 0.5
    kinds = set()
    for _ in range(40):
        with tx.client() as client:
            client.get("/small.bin")
            (line,) = tx.sockets()
            kinds.add("tcp-ulp-tls" in line)
        if len(kinds) == 2:
            break
    assert kinds == {True, False}


@once
def test_files_go_by_sendfile(tx: Sidecar) -> None:
    # At most 1 MiB a call.
    assert 4 <= tx.sendfile_calls("/large.bin") <= 400


@once
def test_ranges_and_keep_alive(tx: Sidecar) -> None:
    content = hashlib.sha256()
    with tx.client() as client:
        for offset in range(0, LARGE, 1_000_003):
            last = min(offset + 1_000_003, LARGE) - 1
            response = client.get("/large.bin", Range=f"bytes={offset}-{last}")
            assert response.status == 206
            content.update(response.body)
        assert client.get("/nothing").status == 404
        assert client.get("/large.bin", method="HEAD").headers["content-length"] == str(LARGE)
    assert content.hexdigest() == tx.sha256("large.bin")


def key_update(sidecar: Sidecar, command: str, source: str) -> str:
    """On the host: a request, a KeyUpdate (K asks for an answer, k does not), and a request again.

    From an address of its own, ``source``: the sidecar remembers who changes keys.
    """
    request = "printf 'GET /small.bin HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'"
    script = (
        f"({request}; sleep 3; echo {command}; sleep 3; {request}; sleep 3) |"
        f" timeout 30 openssl s_client -tls1_3 -bind {source}:0 -CAfile /etc/ktls/tls/cert.pem"
        " -connect 127.0.0.1:8443 2>&1"
        " | tr -cd '[:print:]\\n'; true"
    )
    return sidecar.run(script)


def openssl_version(sidecar: Sidecar) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", sidecar.run("openssl version"))[:2]
    return int(major), int(minor)


def rekeys(sidecar: Sidecar) -> bool:
    """True for a kernel and an OpenSSL that can change keys: Linux 6.14 and OpenSSL 3.2."""
    major, minor = re.findall(r"\d+", sidecar.run("uname -r"))[:2]
    return (int(major), int(minor)) >= (6, 14) and openssl_version(sidecar) >= (3, 2)


@once
def test_key_update_of_the_client_alone(tx: Sidecar) -> None:
    before = tx.call(verb="status")["errors"]
    assert key_update(tx, "k", "127.0.0.2").count("HTTP/1.1 200 OK") == 2
    assert tx.call(verb="status")["errors"] == before


@everywhere
def test_key_update_that_asks_for_one(tx: Sidecar) -> None:
    before = tx.call(verb="status")["errors"].get("key_update", 0)
    output = key_update(tx, "K", "127.0.0.3")
    assert "KEYUPDATE" in output
    assert "bad record mac" not in output.lower()
    errors = tx.call(verb="status")["errors"]
    if rekeys(tx):
        assert output.count("HTTP/1.1 200 OK") == 2
        assert errors.get("key_update", 0) == before
        assert tx.tls_stat()["TlsTxRekeyOk"] >= 1
    else:
        # Ended cleanly, before a record that the client could not read.
        assert output.count("HTTP/1.1 200 OK") == 1
        assert errors["key_update"] == before + 1
    assert set(errors) <= {"key_update"}


@everywhere
def test_key_update_where_the_kernel_decrypts(rx: Sidecar) -> None:
    counted = rx.call(verb="status")
    output = key_update(rx, "k", "127.0.0.4")
    status = rx.call(verb="status")
    assert "bad record mac" not in output.lower()
    survives = rekeys(rx) or openssl_version(rx) < (3, 2)
    assert output.count("HTTP/1.1 200 OK") == (2 if survives else 1)
    assert status["errors"].get("key_update", 0) == counted["errors"].get("key_update", 0) + (0 if survives else 1)
    if not survives:
        # Its next connection is served from userspace, and says why.
        peers = counted["fallbacks"].get("peer", 0)
        assert rx.run(CURL + " --interface 127.0.0.4").split()[0] == "200"
        assert rx.call(verb="status")["fallbacks"].get("peer", 0) == peers + 1
        assert rx.run(CURL).split()[0] == "200"
        assert rx.call(verb="status")["fallbacks"].get("peer", 0) == peers + 1, "another client is not meant"


CURL = (
    "curl -sS -o /dev/null -w '%{http_code}\n' --cacert /etc/ktls/tls/cert.pem"
    " --resolve localhost:8443:127.0.0.1 https://localhost:8443/small.bin"
)

# Sizes just over a sendfile call, where the last record is the one that TCP's queue has no room for.
STALLED_CLIENTS = """
import socket, ssl, threading, time
context = ssl.create_default_context(cafile="/etc/ktls/tls/cert.pem")
short = []
def one(size):
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(60)
    raw.connect(("127.0.0.1", 8443))
    tls = context.wrap_socket(raw, server_hostname="localhost")
    request = f"GET /large.bin HTTP/1.1\\r\\nHost: x\\r\\nRange: bytes=0-{size - 1}\\r\\nConnection: close\\r\\n\\r\\n"
    tls.sendall(request.encode())
    time.sleep(2.5)
    data = b"".join(iter(lambda: tls.recv(65536), b""))
    if len(data.partition(b"\\r\\n\\r\\n")[2]) != size:
        short.append(size)
threads = [threading.Thread(target=one, args=(size,)) for size in range(1049000, 1065000, 500)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(threads), short)
"""


@everywhere
def test_the_last_record_is_not_lost(tx: Sidecar) -> None:
    """A close overtakes what kTLS holds back while TCP's queue is full."""
    done = tx.lab.ssh(HOST, ["python3", "-c", STALLED_CLIENTS], timeout=120)
    assert done.stdout.strip() == "32 []", done.stdout + done.stderr


@once
def test_off_flag(tx: Sidecar) -> None:
    with tx.client() as idle, tx.client() as busy:
        idle.get("/small.bin")
        busy.send(b"GET /huge.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        head = busy.stream.readline()
        assert head.startswith(b"HTTP/1.1 200")
        eventually(lambda: tx.call(verb="status")["connections"]["ktls_tx"] == 2, 30)
        # A new connection right after the flag, and the flag's age when no idle kTLS connection is left.
        script = (
            "touch /run/ktls/off; curl -sS -o /dev/null --cacert /etc/ktls/tls/cert.pem"
            " --resolve localhost:8443:127.0.0.1 https://localhost:8443/small.bin;"
            ' python3 /root/ctl.py \'{"verb":"status"}\''
        )
        status = json.loads(tx.run(script))
        assert (status["mode"], status["effective_mode"], status["off_flag"]) == ("userspace", "userspace", True)
        # Only the one with a response under way stays.
        eventually(lambda: tx.call(verb="status")["connections"]["ktls_tx"] == 1, 10)
        assert idle.closed()
        assert tx.call(verb="mode", mode="tx") == {"ok": False, "code": "off_latched"}
        # The running transfer is not harmed.
        length = 0
        while (line := busy.stream.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        assert length == HUGE
        assert hashlib.sha256(busy.stream.read(length)).hexdigest() == tx.sha256("huge.bin")
        assert busy.closed()
    eventually(lambda: tx.call(verb="status")["connections"]["ktls_tx"] == 0, 30)
    assert tx.call(verb="status")["ktls_tx_zero_age_s"] is not None
    assert not any("txconf" in line for line in tx.sockets())


@once
@pytest.mark.parametrize("how", ["order", "flag"])
def test_what_is_left_of_ktls_is_cut_at_the_deadline(tx: Sidecar, how: str) -> None:
    """And the kernel forgets it at once, so that the module can be unloaded."""
    before = tx.call(verb="status")["limited"].get("drained", 0)
    with tx.client() as client:
        client.send(b"GET /huge.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.stream.readline().startswith(b"HTTP/1.1 200")
        eventually(lambda: tx.call(verb="status")["connections"]["ktls_tx"] == 1, 30)
        if how == "flag":
            tx.run("touch /run/ktls/off")
            eventually(lambda: tx.call(verb="status")["effective_mode"] == "userspace", 10)
        else:
            tx.call(verb="mode", mode="userspace")
        drain = tx.call(verb="status")["drain"]
        assert drain["left"] == 1
        assert 200 < drain["deadline_left_s"] <= 300
        assert tx.call(verb="mode", mode="userspace", drain_s=1)["drain"]["deadline_left_s"] <= 1
        eventually(lambda: tx.tls_stat()["TlsCurrTxSw"] == 0, 15)
        with pytest.raises((ssl.SSLError, ConnectionResetError, EOFError)):
            while client.stream.read1(1 << 20):
                pass
    status = tx.call(verb="status")
    assert status["drain"] == {"left": 0, "deadline_left_s": None}
    assert status["limited"]["drained"] == before + 1
    tx.run("rm -f /run/ktls/off; modprobe -r tls")


@once
def test_small_files_from_memory(tx: Sidecar) -> None:
    """One record each, and right; replaced ones at once."""
    tx.run("head -c 9000 /dev/urandom > /srv/ktls/a.bin; head -c 60000 /dev/urandom > /srv/ktls/b.bin; sleep 4")
    expected = {f"/{name}": tx.sha256(name) for name in ("a.bin", "b.bin")}
    with tx.client() as client:
        for _ in range(3):
            for path, sha256 in expected.items():
                assert hashlib.sha256(client.get(path).body).hexdigest() == sha256
        tx.run("echo new > /srv/ktls/c.bin; mv /srv/ktls/c.bin /srv/ktls/a.bin")
        assert client.get("/a.bin").body == b"new\n"
    assert tx.sendfile_calls("/b.bin") == 0
    tx.run("rm /srv/ktls/a.bin /srv/ktls/b.bin")


@once
def test_truncated_file_ends_short(tx: Sidecar) -> None:
    tx.run("cp /srv/ktls/huge.bin /srv/ktls/cut.bin")
    with tx.client() as client:
        client.send(b"GET /cut.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.stream.readline().startswith(b"HTTP/1.1 200")
        tx.run("truncate -s 1000 /srv/ktls/cut.bin")
        got = 0
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            while part := client.stream.read1(1 << 20):
                got += len(part)
        assert got < HUGE
    assert tx.call(verb="status")["errors"]["file_changed"] == 1
    tx.run("rm /srv/ktls/cut.bin")


@once
def test_no_byte_is_wrong_while_modes_change(tx: Sidecar) -> None:
    """Clients that download without a break while the mode flips; every body is hashed."""
    expected = {path: tx.sha256(path[1:]) for path in ("/large.bin", "/medium.bin", "/small.bin")}
    stop = threading.Event()
    wrong: list[str] = []
    right: list[str] = []

    def download(version: ssl.TLSVersion) -> None:
        while not stop.is_set():
            try:
                with tx.client(version=version) as client:
                    for path, sha256 in expected.items():
                        response = client.get(path)
                        found = hashlib.sha256(response.body).hexdigest()
                        (right if (response.status, found) == (200, sha256) else wrong).append(path)
                        if response.headers.get("connection") == "close":
                            break
            except EOFError:
                continue  # an idle connection that a mode change closed: clients try again

    threads = [threading.Thread(target=download, args=(version,)) for version in VERSIONS.values()]
    for thread in threads:
        thread.start()
    before, received = tx.call(verb="status"), tx.tls_stat()["TlsRxSw"]
    for number in range(6):
        assert tx.call(verb="mode", mode=("userspace", "tx")[number % 2])["ok"]
        time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join(60)
    after = tx.call(verb="status")
    assert wrong == []
    assert len(right) > 10
    for path in ("ktls_tx", "userspace"):
        assert after["bytes"][path] > before["bytes"][path]
    assert after["errors"] == before["errors"]
    eventually(lambda: tx.tls_stat()["TlsCurrTxSw"] == 0, 30)
    assert tx.tls_stat()["TlsRxSw"] == received


@once
def test_long_lives_are_limited(tx: Sidecar) -> None:
    """On this kernel a client's KeyUpdate would end the connection, so it ends before clients get that far."""
    limits = '"ktls_max_bytes": 5000000, "ktls_max_age_s": 6'
    try:
        tx.run(f"sed -i 's/}}$/, {limits}}}/' /etc/ktls/sidecar.json; systemctl restart ktls-sidecar; modprobe tls")
        assert tx.call(verb="mode", mode="tx")["effective_mode"] == "tx"
        with tx.client() as client:
            first, second = client.get("/large.bin"), client.get("/large.bin")
            assert "connection" not in first.headers
            # What is under way is never cut: it is the next response that says goodbye.
            assert [len(response.body) for response in (first, second)] == [LARGE, LARGE]
            last = client.get("/small.bin")
            assert last.headers["connection"] == "close"
            assert client.closed()
        assert tx.call(verb="status")["limited"] == {"bytes": 1}
        with tx.client() as client, tx.client(version=VERSIONS["1.2"]) as other:
            assert client.get("/small.bin").status == other.get("/small.bin").status == 200
            eventually(lambda: tx.call(verb="status")["limited"] == {"bytes": 1, "age": 1}, 30)
            assert client.closed()
            assert other.get("/small.bin").status == 200, "TLS 1.2 has no KeyUpdate"
    finally:
        tx.run(f"sed -i 's/, {limits}//' /etc/ktls/sidecar.json; systemctl restart ktls-sidecar")


@once
def test_the_unit_confines_it(sidecar: Sidecar) -> None:
    status = sidecar.run("cat /proc/$(systemctl show -P MainPID ktls-sidecar)/status")
    facts = dict(line.split(":", 1) for line in status.splitlines())
    assert facts["Uid"].split()[0] != "0"
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"
    owner, mode = sidecar.run("stat -c '%U:%G %a' /run/ktls-sidecar/control.sock").split()
    assert (owner, mode) == ("ktls-sidecar:ktls", "660")
    overall = sidecar.run("systemd-analyze security --no-pager ktls-sidecar | tail -1")
    found = re.search(r"([0-9.]+) OK", overall)
    assert found is not None, overall
    assert float(found.group(1)) <= 1.5
    sidecar.run("systemctl stop ktls-sidecar")
    result = sidecar.run("systemctl show -P Result -P ExecMainStatus ktls-sidecar").split()
    assert result == ["success", "0"]
