# SPDX-License-Identifier: Apache-2.0
"""Free loopback ports for the forwards of a lab."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

from ktls_lab.errors import LabError

# Below Linux's default ip_local_port_range (32768-60999), so that no outgoing connection takes a port
# while its host is switched off.
FIRST, LAST = 20000, 32000


def is_free(port: int) -> bool:
    """Whether 127.0.0.1:``port`` can be bound now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports() -> Iterator[int]:
    """Yield free ports, each once, in random order; LabError when there are no more."""
    for port in random.sample(range(FIRST, LAST), LAST - FIRST):
        if is_free(port):
            yield port
    message = f"no free port on 127.0.0.1 between {FIRST} and {LAST}: end the programs that hold them"
    raise LabError(message)
