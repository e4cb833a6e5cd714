# SPDX-License-Identifier: Apache-2.0
"""Which hosts off is for, whatever state the inventory is in.

The inventory has the first word. When it is slow, the list of its last good answer is used after a few seconds, and
the answer, if it still comes, adds what is new; when it is broken, that list is all there is. Both are said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import hostlist, inventory
from ..errors import ControlError
from ..inventory import Host
from ..patterns import limited

#: Seconds that the inventory has before the last good list is used, and after which it is waited for no more.
PATIENCE_S, GIVE_UP_S = 5.0, 30.0


@dataclass(frozen=True)
class Selection:
    """What the operator asked for.

    :param hosts: by name (``--host``); they need not be in the inventory.
    :param members: names that a wave has; None: no wave was asked for.
    """

    inventory: str
    group: str
    limit: str | None = None
    hosts: tuple[str, ...] = ()
    members: tuple[str, ...] | None = None

    @property
    def everything(self) -> bool:
        """The whole fleet."""
        return not (self.limit or self.hosts or self.members is not None)


@dataclass
class Source:
    """Where the list of hosts came from.

    :param list: ``inventory``, ``unchanged`` (a list whose files are as they were), ``last_good``, or ``names``.
    :param at: when that list was read, seconds since the epoch.
    :param error: why the inventory was not used.
    :param late: hosts that only the inventory knew, when it answered after all.
    :param gone: hosts that it does not know any more.
    """

    list: str = "inventory"
    at: float | None = None
    error: str | None = None
    late: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def certain(self) -> bool:
        """Nobody that was meant can be missing."""
        return self.list != "last_good"


@dataclass
class Targets:
    """Finds the hosts; :meth:`first` blocks until there are some, :meth:`more` says what came later."""

    selection: Selection
    clock: Callable[[], float] = time.monotonic
    patience_s: float = PATIENCE_S
    give_up_s: float = GIVE_UP_S
    source: Source = field(default_factory=Source)
    _fresh: list[Host] | None = None
    _error: ControlError | None = None
    _done: threading.Event = field(default_factory=threading.Event)
    _begun: float = 0.0
    _given: dict[str, Host] = field(default_factory=dict)
    _settled: bool = False

    def first(self) -> list[Host]:
        """Hosts to begin with.

        :raises ControlError: when neither the inventory nor a list of it names any host.
        """
        wanted, self._begun = self.selection, self.clock()
        kept = hostlist.read(wanted.inventory, wanted.group)
        if kept and kept.signature and kept.signature == hostlist.signature(wanted.inventory):
            try:
                hosts = self._choose(kept.data)
                self._settled, self.source = True, Source("unchanged", kept.at, unknown=self.source.unknown)
                return hosts
            except ControlError:
                pass  # a pattern that only Ansible understands
        threading.Thread(target=self._load, daemon=True).start()
        if self._done.wait(self.patience_s if kept or wanted.hosts else None) and self._fresh is not None:
            self._settled = True
            return self._fresh
        return self._instead(kept)

    def _instead(self, kept: hostlist.HostList | None) -> list[Host]:
        wanted = self.selection
        error = self._error.message if self._error else f"{wanted.inventory}: no answer within {self.patience_s:g} s"
        self._settled = self._done.is_set()
        if kept is None:
            if not wanted.hosts:
                # Without a list the inventory is waited for, so it has said what is wrong.
                raise self._error or ControlError("bad_inventory", error)
            self.source = Source("names", None, error)
            hosts = [inventory.host_from_vars(name, {}) for name in wanted.hosts]
        else:
            self.source = Source("last_good", kept.at, error)
            hosts = self._choose(kept.data)
        self._given = {host.name: host for host in hosts}
        return hosts

    @property
    def pending(self) -> bool:
        """The inventory may still answer, and is still waited for."""
        return not self._settled and self.clock() - self._begun < self.give_up_s

    def more(self) -> list[Host]:
        """Hosts of a late answer of the inventory: all that it names, once."""
        if self._settled or not self._done.is_set():
            return []
        self._settled = True
        if self._fresh is None:
            if self._error:
                self.source.error = self._error.message
            return []
        fresh = {host.name: host for host in self._fresh}
        self.source = Source(
            "inventory",
            unknown=self.source.unknown,
            late=tuple(name for name in fresh if name not in self._given),
            gone=tuple(name for name in self._given if name not in fresh),
        )
        return list(fresh.values())

    def _load(self) -> None:
        wanted = self.selection
        try:
            # Names of a wave or of --host are looked up in the whole group, which also keeps the list.
            self._fresh = self._pick(inventory.load(wanted.inventory, wanted.group, wanted.limit))
        except ControlError as error:
            self._error = error
        except Exception as error:
            self._error = ControlError("bad_inventory", f"{wanted.inventory}: {type(error).__name__}: {error}")
        finally:
            self._done.set()

    def _choose(self, data: Any) -> list[Host]:
        wanted = self.selection
        hosts = inventory.hosts_of(data, wanted.inventory, wanted.group, None)
        if wanted.limit:
            names = set(limited([host.name for host in hosts], data, wanted.limit))
            hosts = [host for host in hosts if host.name in names]
            if not hosts:
                message = f"{wanted.inventory}: no host of group {wanted.group!r} matches --limit {wanted.limit!r}"
                raise ControlError("no_group", f"{message}; name hosts with --host")
        return self._pick(hosts)

    def _pick(self, hosts: Sequence[Host]) -> list[Host]:
        wanted = self.selection
        if not wanted.hosts and wanted.members is None:
            return list(hosts)
        names = dict.fromkeys((*(wanted.members or ()), *wanted.hosts))
        known = {host.name: host for host in hosts}
        # One that is in no inventory is asked by its name: ssh may know it.
        self.source.unknown = tuple(name for name in names if name not in known)
        return [known.get(name) or inventory.host_from_vars(name, {}) for name in names]
