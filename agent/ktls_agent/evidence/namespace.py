# SPDX-License-Identifier: Apache-2.0
"""One network namespace under observation: its sockets to the kernel, its listeners, its books."""

from __future__ import annotations

from collections.abc import Sequence

from ktls_host import sock_diag_rows, tcp_stat, tls_stat
from ktls_host.sock_diag_rows import Destroyed, Dumps

from . import infer
from .enter import in_namespace_of
from .ledger import Ledger
from .serving import Listeners, Listening, Process, plain_address


class Namespace:
    """Looks at one namespace. Raises :class:`~ktls_host.errors.KtlsError` when the kernel does not answer."""

    def __init__(self, inode: int, pid: int | None, probe_port: int | None = None) -> None:
        """``pid``: a process in it; None for our own. ``inode``: of the namespace, its name.

        ``probe_port``: where the agent downloads its probe object from, if that is in it.
        """
        self.inode = inode
        self.name = "host" if pid is None else str(inode)
        self.processes: Sequence[Process] = ()
        self.candidates: object = None  # what the listeners were chosen from, and who they are
        self.owners: list[Process] | None = None
        self.listeners = Listeners()
        self.ledger = Ledger(self.listeners.owner, self.listeners.harmless, probe_port)
        self._pid = pid
        self._own = pid is None
        self._lost = 0
        # The notices first: what ends after that is noticed.
        self._destroyed, self._dumps = _sockets() if pid is None else in_namespace_of(pid, _sockets)

    def close(self) -> None:
        """Let go of the namespace: an open socket keeps it alive."""
        self.ledger.finish()
        self._destroyed.close()
        self._dumps.close()

    @property
    def lost(self) -> int:
        """Times that the kernel dropped notices."""
        return self._destroyed.lost

    def stat(self) -> dict[str, int] | None:
        """Return its tls_stat; None where there is none."""
        for place in self._places():
            found = tls_stat.read(f"{place}/tls_stat")
            if found is not None:
                return found
        return None

    def tcp(self) -> dict[str, int]:
        """Return its counters of resets and timeouts; empty where they cannot be read."""
        for place in self._places():
            found = tcp_stat.read(place)
            if found:
                return found
        return {}

    def _places(self) -> list[str]:
        pids = ["self"] if self._own else [str(process.pid) for process in self.processes] or [str(self._pid)]
        return [f"/proc/{pid}/net" for pid in pids]

    def listening(self) -> dict[int, Listening]:
        """Return its listening sockets, by inode."""
        return {
            found.inode: Listening(found.port, plain_address(found.family, found.address), found.cgroup)
            for found in self._dumps.listeners()
        }

    def drain(self, now_s: float) -> None:
        """Take the notices that have come."""
        for _ in range(8):
            rows = self._destroyed.drain()
            if self._destroyed.lost != self._lost:
                self._lost = self._destroyed.lost
                self.ledger.lost()
            self.ledger.gone(rows, now_s)
            if len(rows) < sock_diag_rows.LONGEST_DRAIN:
                return

    def scan(self, now_s: float, full: bool) -> None:
        """Dump its connections, those of other ports too: what is seen there is not suspected of being ours."""
        self.drain(now_s)
        ledger = self.ledger
        ledger.begin(now_s, infer.contexts(self.stat()), full)
        for rows in self._dumps.rows():
            ledger.dump(rows)
        ledger.end(infer.contexts(self.stat()))

    def settle(self, now_s: float) -> None:
        """Judge what the last full scan left open. Call it ``GRACE_S`` later."""
        if self.ledger.unsettled:
            self.drain(now_s)
            self.ledger.settle()


def _sockets() -> tuple[Destroyed, Dumps]:
    destroyed = Destroyed()
    try:
        return destroyed, Dumps()
    except BaseException:
        destroyed.close()
        raise
