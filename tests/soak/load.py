# SPDX-License-Identifier: Apache-2.0
"""Clients that download without a break and compare every byte."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.content import sha256
from tests.conformance.harness import tls_context

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
#: Names below /site/, and how often each is chosen.
MIX = {"small.bin": 8, "record+1.bin": 4, "buffer.bin": 4, "medium+1.bin": 4, "large.bin": 1, "empty.bin": 1}
#: Longer than any flap, shorter than a stuck connection may stay unseen.
TIMEOUT_S = 45.0
_BACK_OFF_S = 0.2


@dataclass
class Broken:
    """A transfer that did not end well: when it ran (Unix time), and how it ended."""

    began: float
    ended: float
    what: str


@dataclass
class Tally:
    """What all clients saw."""

    right: int = 0
    bytes: int = 0
    wrong: list[str] = field(default_factory=list)
    """Bodies that differ from the file: never explained by anything."""
    broken: list[Broken] = field(default_factory=list)
    idle_closed: int = 0
    """Kept connections that had ended when the next request came: clients try again."""
    kinds: dict[str, int] = field(default_factory=dict)


class Load:
    """``clients`` threads against 127.0.0.1:``port``. ``files`` holds the bytes of each name."""

    def __init__(self, port: int, ca: Path, files: dict[str, bytes], clients: int, seed: int) -> None:
        """Prepare; :meth:`start` begins."""
        self._port = port
        self._ca = ca
        self._files = files
        self._hashes = {name: sha256(files[name]) for name in MIX}
        self._seed = seed
        self._clients = clients
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.tally = Tally()

    def start(self) -> None:
        """Begin, or begin again after :meth:`stop`."""
        self._stop.clear()
        self._seed += self._clients
        self._threads = [
            threading.Thread(target=self._run, args=(self._seed + number,), daemon=True)
            for number in range(self._clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client finish its transfer. A client that cannot is a broken transfer of its own."""
        self._stop.set()
        end = time.monotonic() + 4 * TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self.tally.broken.append(Broken(0, 0, "a client hangs"))

    def _run(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stop.is_set():
            context = tls_context(self._ca, rng.choice(VERSIONS))
            connection = http.client.HTTPSConnection("localhost", self._port, context=context, timeout=TIMEOUT_S)
            for number in range(rng.choice((1, 1, 3, 20))):
                if self._stop.is_set() or not self._one(connection, rng, number > 0):
                    break
            connection.close()

    def _one(self, connection: http.client.HTTPSConnection, rng: random.Random, kept: bool) -> bool:
        """One transfer. True when the connection may be used again."""
        name = rng.choices(list(MIX), list(MIX.values()))[0]
        data, expected = self._files[name], self._hashes[name]
        headers = {}
        if len(data) > 1 and rng.random() < 0.3:
            first = rng.randrange(len(data))
            last = rng.randrange(first, len(data))
            headers["Range"] = f"bytes={first}-{last}"
            expected = sha256(data[first : last + 1])
        began = time.time()
        if kept and connection.sock is None:
            # The last response said that it closes; http.client would connect anew by itself.
            return False
        try:
            connection.request("GET", f"/site/{name.replace('+', '%2B')}", headers=headers)
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            return self._no_answer(began, kept, error)
        except (OSError, http.client.HTTPException) as error:
            if kept and isinstance(error, ssl.SSLError):
                return self._no_answer(began, kept, error)
            return self._broke(began, error)
        try:
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return self._broke(began, error)
        with self._lock:
            if response.status != (206 if headers else 200) or sha256(body) != expected:
                self.tally.wrong.append(f"{name} {headers} status {response.status}, {len(body)} bytes")
                return False
            self.tally.right += 1
            self.tally.bytes += len(body)
            for kind in ("range" if headers else "whole", "kept" if kept else "new"):
                self.tally.kinds[kind] = self.tally.kinds.get(kind, 0) + 1
        return True

    def _no_answer(self, began: float, kept: bool, error: Exception) -> bool:
        if not kept:
            return self._broke(began, error)
        with self._lock:
            self.tally.idle_closed += 1
        return False

    def _broke(self, began: float, error: Exception) -> bool:
        with self._lock:
            self.tally.broken.append(Broken(began, time.time(), f"{type(error).__name__}: {error}"[:200]))
        time.sleep(_BACK_OFF_S)
        return False
