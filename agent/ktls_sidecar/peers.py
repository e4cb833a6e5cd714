# SPDX-License-Identifier: Apache-2.0
"""Clients that were seen to change their keys on a host whose kernel cannot: they are served from userspace."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_KEEP_S = 24 * 3600.0
_MOST = 4096


class Peers:
    """Remembers addresses for a day, the latest 4,096."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Times come from ``clock``, in seconds."""
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def remember(self, remote: str) -> None:
        """``remote`` is ``address:port``; the port does not count."""
        address = _address(remote)
        self._seen.pop(address, None)
        self._seen[address] = self._clock() + _KEEP_S
        while len(self._seen) > _MOST:
            self._seen.popitem(last=False)

    def __contains__(self, remote: object) -> bool:
        """True when the client at ``remote`` changed its keys within the last day."""
        if not self._seen or not isinstance(remote, str):
            return False
        until = self._seen.get(_address(remote))
        return until is not None and self._clock() < until


def _address(remote: str) -> str:
    return remote.rpartition(":")[0]
