# SPDX-License-Identifier: Apache-2.0
"""Changed requests over TLS, several at a time: each answer is one that clients may get, and the sidecar stays well."""

from __future__ import annotations

import contextlib
import random
import re
import secrets
import threading
import time

from tests.fuzz.mutate import mutate
from tests.fuzz.request import STATUSES, seeds

from .clients import request
from .conftest import Site
from .content import sha256
from .harness import Native, eventually
from .raw import ClosedError, Raw

BUDGET_S = 8.0
THREADS = 6


def converse(native: Native, data: bytes) -> bytes:
    """Send, say goodbye, and return all that comes back before the end."""
    client = Raw(native.endpoint)
    received = bytearray()
    with contextlib.suppress(ClosedError, ConnectionError):
        with contextlib.suppress(ConnectionError):
            client.send(data)
            client.say_goodbye()
        while True:
            received += client.read()
    client.sock.close()
    return bytes(received)


def test_changed_requests(steady: Native, site: Site) -> None:
    seed = secrets.randbits(32)
    pool = seeds()
    end = time.monotonic() + BUDGET_S
    wrong: list[str] = []
    counts = [0] * THREADS

    def run(number: int) -> None:
        rng = random.Random(seed + number)
        while time.monotonic() < end:
            data = mutate(rng.choice(pool), pool, rng)
            try:
                answer = converse(steady, data)
            except Exception as error:
                wrong.append(f"{type(error).__name__} {error} after {data[:500]!r}")
                return
            match = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n", answer)
            if answer and (match is None or int(match.group(1)) not in STATUSES):
                wrong.append(f"{answer[:100]!r} after {data[:500]!r}")
            if b"root:" in answer or b"secret" in answer or b"Traceback" in answer:
                wrong.append(f"something was told after {data[:500]!r}")
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [], f"seed {seed}"
    assert sum(counts) > 50
    assert sha256(Raw(steady.endpoint).ask(request("/large.bin")).body) == site.sha256["large.bin"]
    # One connection may be left: the one just above.
    eventually(lambda: sum(steady.status()["connections"].values()) <= 1)
