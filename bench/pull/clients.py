# SPDX-License-Identifier: Apache-2.0
"""The clients of one namespace: a new connection to each host, again and again.

    python -m bench.pull.clients PERIOD_S PORT...

Commands come on standard input, one a line; answers go to standard output, one a line.
``order``: order kTLS on every host; answers how many took it.
``run SECONDS``: connect until every host answered ``u`` for a connection, or the time is over; answers
{"PORT": [last kTLS answer, first userspace answer, longest time between two answers until then], ...} in seconds of
CLOCK_MONOTONIC, null for never.
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
    seen: dict[int, list[float | None]] = {port: [None, None, 0.0] for port in ports}
    before = dict.fromkeys(ports, time.monotonic() + period_s)
    step, following = period_s / len(ports), time.monotonic()
    end = following + limit_s
    while time.monotonic() < end and any(first is None for _, first, _ in seen.values()):
        for port in ports:
            following += step
            time.sleep(max(0.0, following - time.monotonic()))
            answer, now = _ask(port, CONNECT), time.monotonic()
            one = seen[port]
            if one[1] is None:
                one[0 if answer == b"t" else 1] = now
                one[2] = max(one[2] or 0.0, now - before[port])
            before[port] = now
    return seen


def _ask(port: int, what: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.sendall(what)
        return sock.recv(1)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
