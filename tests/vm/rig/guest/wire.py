# SPDX-License-Identifier: Apache-2.0
"""One host's own wire: a played card over a veth, and the other end of it in a network namespace.

Both ends of every connection are in this process, so that a whole story is one login: a socket belongs to the
namespace of the thread that made it. Python 3.11, standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

CARD, LOWER, FAR, NAMESPACE = "sim9", "rig0", "rig1", "rigpeer"
OURS, THEIRS = {4: "10.77.0.1", 6: "fd77::1"}, {4: "10.77.0.2", 6: "fd77::2"}
KNOBS = Path("/sys/kernel/debug/tlssim") / CARD
NO_FAULTS = {"corrupt_every": 0, "leak_every": 0, "drop_every": 0, "reorder_every": 0, "capacity": 65536}
MARK = b"PLAINTEXT-ON-THE-WIRE-" * 3
GCM128, GCM256 = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
CHACHA20 = "ECDHE-ECDSA-CHACHA20-POLY1305"
OP_ENABLE_KTLS = 0x8  # openssl/ssl.h; ssl.OP_ENABLE_KTLS is of Python 3.12
CLONE_NEWNET = 0x40000000
TIMEOUT_S = 30.0

Made = TypeVar("Made")


def run(*argv: str) -> str:
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
    return done.stdout


@functools.cache
def content(size: int) -> bytes:
    """Bytes of which no 32 come twice, for whatever is lost or moved to be seen, with MARK in each record."""
    blocks = (hashlib.sha256(b"rig" + index.to_bytes(4, "big")).digest() for index in range(size // 32 + 1))
    data = bytearray(b"".join(blocks)[:size])
    for start in range(0, size - len(MARK), 4096):
        data[start + 8 : start + 8 + len(MARK)] = MARK
    return bytes(data)


def over_there(make: Callable[[], Made]) -> Made:
    """Return what ``make`` makes in the namespace at the other end of the wire."""
    made: list[Made] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{NAMESPACE}", "rb") as namespace:
                if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def certificate(directory: Path) -> Path:
    """Make a key and a certificate that vouches for itself; return the file with both."""
    place = directory / "rig.pem"
    directory.mkdir(mode=0o700, exist_ok=True)
    if not place.exists():
        key, certified = directory / "key.pem", directory / "certificate.pem"
        names = "subjectAltName=DNS:rig.test"
        usage = "keyUsage=critical,digitalSignature,keyCertSign"  # Python 3.13 verifies strictly
        run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *(
                "-subj",
                "/CN=rig.test",
                "-addext",
                names,
                "-addext",
                usage,
                "-days",
                "30",
                "-keyout",
                str(key),
                "-out",
                str(certified),
            ),
        )
        place.write_bytes(certified.read_bytes() + key.read_bytes())
    return place


def tls_stat() -> dict[str, int]:
    """Return the kernel's TLS counters of this namespace."""
    lines = (line.split() for line in Path("/proc/net/tls_stat").read_text().splitlines())
    return {name: int(value) for name, value in lines}


def statistics(interface: str = CARD) -> dict[str, int]:
    """Return what ``ethtool -S`` prints of the card."""
    lines = (line.split(":") for line in run("ethtool", "-S", interface).splitlines() if ": " in line)
    return {name.strip(): int(value) for name, value in lines}


def moved(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return what is not as it was, with how far it moved."""
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait for something that the kernel does later; tell whether it did."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def knobs(**values: int) -> None:
    """Turn knobs of the card."""
    for name, value in values.items():
        (KNOBS / name).write_text(str(value))


class Watcher:
    """Looks at what arrives at the other end of the wire, as another machine would."""

    def __init__(self, interface: str = FAR, *, here: bool = False) -> None:
        """Start looking; ``here``: at an interface of this namespace."""
        self.frames = 0
        self.marked = 0

        def packet_socket() -> socket.socket:
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL

        self._socket = packet_socket() if here else over_there(packet_socket)
        self._socket.bind((interface, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._socket.settimeout(0.3)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while True:
            try:
                frame = self._socket.recv(1 << 17)
            except TimeoutError:
                if self._ended.is_set():
                    return
                continue
            self.frames += 1
            self.marked += MARK in frame

    def end(self) -> dict[str, int]:
        """Stop, and tell how many frames there were and in how many the mark was to be read."""
        self._ended.set()
        self._thread.join()
        self._socket.close()
        return {"frames": self.frames, "marked": self.marked}


class Connection:
    """A TLS connection over the wire. The server is on the side of the card, with kernel TLS where it can be had."""

    def __init__(self, wire: Wire, version: str = "1.2", cipher: str = GCM128, family: int = 4) -> None:
        """Connect and shake hands; an OSError (ssl.SSLError is one) when that fails."""
        tls = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(wire.certificate)
        ours.options |= OP_ENABLE_KTLS
        theirs = ssl.create_default_context(cafile=str(wire.certificate))
        for context in (ours, theirs):
            context.minimum_version = context.maximum_version = tls
            if version == "1.2":
                context.set_ciphers(cipher)
        kind = {4: socket.AF_INET, 6: socket.AF_INET6}[family]
        listener = socket.create_server((OURS[family], 0), family=kind)
        listener.settimeout(TIMEOUT_S)
        address = listener.getsockname()
        self.port = address[1]
        far = over_there(lambda: socket.socket(kind, socket.SOCK_STREAM))
        far.settimeout(TIMEOUT_S)
        far.connect(address)
        near, _ = listener.accept()
        listener.close()
        near.settimeout(TIMEOUT_S)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        served: list[ssl.SSLSocket] = []

        def greet() -> None:
            with contextlib.suppress(OSError):  # the client tells
                served.append(ours.wrap_socket(near, server_side=True))

        greeting = threading.Thread(target=greet)
        greeting.start()
        try:
            self.client = theirs.wrap_socket(far, server_hostname="rig.test")
        except OSError:
            far.close()
            raise
        finally:
            greeting.join()
        if not served:
            self.client.close()
            raise ConnectionError("the server did not finish the handshake")
        self.server = served[0]

    def ss(self) -> str:
        """Return what ss says of the server's end."""
        return run("ss", "-tienH", "state", "established", "sport", "=", f":{self.port}")

    def conf(self) -> dict[str, str]:
        """Return ``{"tx": "hw", "rx": "sw"}`` and the like from what ss says."""
        words = self.ss().split()
        pairs = {first[:2]: second for first, second in zip(words, words[1:]) if first in ("txconf:", "rxconf:")}
        return {direction: pairs.get(direction, "none") for direction in ("tx", "rx")}

    def send(self, data: bytes, *, up: bool = False, piece: int = 65536) -> dict[str, Any]:
        """Send from the server to the client, or the other way; tell what arrived and what went wrong."""
        source, target = (self.client, self.server) if up else (self.server, self.client)
        errors: dict[str, str] = {}

        def push() -> None:
            try:
                for start in range(0, len(data), piece):
                    source.sendall(data[start : start + piece])
            except (OSError, ssl.SSLError) as error:
                errors["sender"] = f"{type(error).__name__}: {error}"

        pushing = threading.Thread(target=push)
        pushing.start()
        got, sha = 0, hashlib.sha256()
        try:
            while got < len(data):
                part = target.recv(65536)
                if not part:
                    errors["receiver"] = "ended early"
                    break
                got += len(part)
                sha.update(part)
        except (OSError, ssl.SSLError) as error:
            errors["receiver"] = f"{type(error).__name__}: {error}"
            # Lets the sender, whose buffer is full, end too.
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)
        pushing.join()
        right = got == len(data) and sha.digest() == hashlib.sha256(data).digest()
        # What arrived must at least be the beginning of what was sent.
        honest = right or sha.digest() == hashlib.sha256(data[:got]).digest()
        return {"right": right, "honest": honest, "got": got, **errors}

    def close(self) -> None:
        """Close both ends without ceremony."""
        for end in (self.client, self.server):
            end.close()


class Wire:
    """The wire; ``with`` takes it away again."""

    def __init__(self) -> None:
        """Set it up. What another story left is removed."""
        self.certificate = str(certificate(Path("/root/rig")))
        self.remove()
        run("modprobe", "tlssim")
        run("ip", "netns", "add", NAMESPACE)
        run("ip", "link", "add", LOWER, "type", "veth", "peer", "name", FAR, "netns", NAMESPACE)
        run("ip", "link", "set", LOWER, "addrgenmode", "none", "up")
        self.add_card()
        inside = ("ip", "-n", NAMESPACE)
        run(*inside, "link", "set", FAR, "up")
        run(*inside, "addr", "add", f"{THEIRS[4]}/24", "dev", FAR)
        run(*inside, "addr", "add", f"{THEIRS[6]}/64", "dev", FAR, "nodad")

    def add_card(self) -> None:
        """Put the card on the wire."""
        run("ip", "link", "add", "link", LOWER, "name", CARD, "type", "tlssim")
        run("ip", "addr", "add", f"{OURS[4]}/24", "dev", CARD)
        run("ip", "link", "set", CARD, "up")
        run("ip", "addr", "add", f"{OURS[6]}/64", "dev", CARD, "nodad")

    @staticmethod
    def remove() -> None:
        """Take it away, as far as it is there."""
        for argv in (("link", "del", LOWER), ("netns", "del", NAMESPACE)):
            subprocess.run(["ip", *argv], capture_output=True, check=False)

    def __enter__(self) -> Wire:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take it away."""
        self.remove()


@contextlib.contextmanager
def connection(wire: Wire, **how: Any) -> Iterator[Connection]:
    """Have a connection for a while."""
    made = Connection(wire, **how)
    try:
        yield made
    finally:
        made.close()


def kernel_complaints() -> list[str]:
    """Return lines of the kernel's log that tell of a bug."""
    words = ("WARNING:", "BUG:", "Oops", "general protection", "refcount_t:", "unregister_netdevice: waiting", "hung")
    return [line for line in run("dmesg").splitlines() if any(word in line for word in words)]
