# SPDX-License-Identifier: Apache-2.0
"""Clients that were seen to change their keys on a host whose kernel cannot: they are served from userspace."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_MOST = 4096


class Peers:
    """Remembers the latest 4,096 addresses."""

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Forget an address after ``keep_s`` seconds. Times come from ``clock``, in seconds."""
        self._keep_s = keep_s
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def remember(self, remote: str) -> None:
        """``remote`` is ``address:port``; the port does not count."""
        address = _address(remote)
        self._seen.pop(address, None)
        self._seen[address] = self._clock() + self._keep_s
        while len(self._seen) > _MOST:
            self._seen.popitem(last=False)

    def __contains__(self, remote: object) -> bool:
        """True when the client at ``remote`` changed its keys not long ago."""
        if not self._seen or not isinstance(remote, str):
            return False
        until = self._seen.get(_address(remote))
        return until is not None and self._clock() < until


def _address(remote: str) -> str:
    return remote.rpartition(":")[0]
