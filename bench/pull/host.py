# SPDX-License-Identifier: Apache-2.0
"""The hosts of one namespace: for each a process with the real fetcher and the real mode switch of the sidecar.

    python -m bench.pull.host CONFIG.json

A host accepts connections on the loopback address of its namespace. For each it asks the switch, as the sidecar does,
and answers ``t`` (this one would take kTLS) or ``u``. Agents are dead throughout: the fetchers raise the flag alone.
Processes are forks of one, to start 200 of them in seconds; each has its own threads, connection and files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from ktls_agent.pull import config as pull_config
from ktls_agent.pull import service
from ktls_sidecar.mode import TX, ModeSwitch

ORDER, CONNECT = b"o", b"c"


def main(path: str) -> int:
    """Run until SIGTERM."""
    settings: dict[str, Any] = json.loads(Path(path).read_text())
    children = []
    for entry in settings["hosts"]:
        child = os.fork()
        if child == 0:
            os._exit(_host(entry))
        children.append(child)

    def stop(_number: int, _frame: object) -> None:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    for child in children:
        with contextlib.suppress(InterruptedError, ChildProcessError):
            os.waitpid(child, 0)
    return 0


def _host(entry: dict[str, Any]) -> int:
    logging.basicConfig(filename=entry["log"], level=logging.INFO)
    configuration = pull_config.parse(entry["pull"], "bench")
    switch = ModeSwitch([configuration.run_flag, configuration.durable_flag], lambda mode: None)
    listener = socket.create_server(("127.0.0.1", entry["port"]), backlog=64)
    threading.Thread(target=_accept, args=(listener, switch), daemon=True).start()
    service.main(configuration, entry["name"])
    return 0


def _accept(listener: socket.socket, switch: ModeSwitch) -> None:
    while True:
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            if sock.recv(1) == ORDER:
                switch.order(TX)
            sock.sendall(b"t" if switch.draw() == TX else b"u")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
