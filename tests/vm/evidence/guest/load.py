# SPDX-License-Identifier: Apache-2.0
"""TLS clients that count what is on the wire: the payload of TCP, byte for byte, independent of the server's kernel.

Standard input: a JSON list of jobs. Standard output: what each job sent and received, as the *server* would say it.
"""

import contextlib
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any


def fetch(job: dict[str, Any], contexts: dict[str, ssl.SSLContext]) -> tuple[int, int]:
    """One connection with as many requests as the job says."""
    context = contexts.setdefault(job["ca"], ssl.create_default_context(cafile=job["ca"]))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=job["name"])
    sent = received = 0
    with socket.create_connection((job["address"], job["port"]), 20) as wire:

        def flush() -> None:
            nonlocal received
            data = outgoing.read()
            if data:
                wire.sendall(data)
                received += len(data)

        def until(step: Callable[[], Any]) -> Any:
            nonlocal sent
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    result = step()
                    flush()
                    return result
                flush()
                data = wire.recv(65536)
                sent += len(data)
                if data:
                    incoming.write(data)
                else:
                    incoming.write_eof()

        until(tls.do_handshake)
        for number in range(job["requests"]):
            if number:
                time.sleep(job.get("pause_s", 0))
            last = number + 1 == job["requests"]
            tls.write(job["request"].replace("@", "close" if last else "keep-alive").encode())
            flush()
            left = job["size"]
            if "cut_s" in job:  # some of it arrives, the rest waits in the server's kernel, and is never wanted
                until(lambda: tls.read(1000))
                time.sleep(job["cut_s"])
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return sent, received
            while left > 0:
                left -= len(until(lambda: tls.read(65536)))
        if job.get("abort"):
            time.sleep(0.5)  # delayed acknowledgements are sent: what the peer has not heard of is in no count
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return sent, received
        if job.get("hang_up"):  # the server waits for that
            wire.shutdown(socket.SHUT_WR)
        while True:
            data = wire.recv(65536)
            sent += len(data)
            if not data:
                return sent, received


def main() -> None:
    """Run the jobs one after the other."""
    results = []
    contexts: dict[str, ssl.SSLContext] = {}
    for job in json.load(sys.stdin):
        sent = received = 0
        for _ in range(job["connections"]):
            more = fetch(job, contexts)
            sent, received = sent + more[0], received + more[1]
        aborted = job["connections"] if job.get("abort") else 0
        results.append({"sent": sent, "received": received, "connections": job["connections"], "aborted": aborted})
    print(json.dumps(results))


main()
