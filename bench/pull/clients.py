# SPDX-License-Identifier: Apache-2.0
"""The clients of one namespace: a new connection to each host, again and again.

    python -m bench.pull.clients PERIOD_S PORT...

Commands come on standard input, one a line; answers go to standard output, one a line.
``order``: order kTLS on every host; answers how many took it.
``run SECONDS``: connect until every host answered ``u`` for a connection, or the time is over; answers
{"PORT": [last kTLS answer, first userspace answer], ...} in seconds of CLOCK_MONOTONIC, null for never.
"""

from __future__ import annotations

import json
import socket
import sys
import time

from bench.pull.host import CONNECT, ORDER


def main(period_s: float, ports: list[int]) -> int:
    """Obey until the input ends."""
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "order":
            taken = sum(_ask(port, ORDER) == b"t" for port in ports)
            print(taken, flush=True)
        else:
            print(json.dumps(_run(period_s, ports, float(arguments[0]))), flush=True)
    return 0


def _run(period_s: float, ports: list[int], limit_s: float) -> dict[int, list[float | None]]:
    seen: dict[int, list[float | None]] = {port: [None, None] for port in ports}
    step, following = period_s / len(ports), time.monotonic()
    end = following + limit_s
    while time.monotonic() < end and any(first is None for _, first in seen.values()):
        for port in ports:
            following += step
            time.sleep(max(0.0, following - time.monotonic()))
            answer = _ask(port, CONNECT)
            place = 0 if answer == b"t" else 1
            if place == 0 or seen[port][1] is None:
                seen[port][place] = time.monotonic()
    return seen


def _ask(port: int, what: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(what)
        return sock.recv(1)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
