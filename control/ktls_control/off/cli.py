# SPDX-License-Identifier: Apache-2.0
"""``ktls off``: the command line of the kill switch.

Exit status: 0 every host read back on userspace TLS; 1 one at least was not, or there was none to ask; 2 wrong usage;
3 every host that was asked is off, but something else needs a look: the list of hosts may be old, or the signed flag
or the rollout under way could not be written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..rollout.control import operator
from . import latency, words
from .model import Latencies, OffResult
from .outlook import History, outlook
from .publish import Published, Publisher, settings
from .run import DEFAULT_POOL, OffRun
from .runs import Run, runs, stop, wave_hosts
from .targets import PATIENCE_S, Selection, Source, Targets

OK, FAILED, LOOK = 0, 1, 3
#: Fewer hosts than this get a line each, whatever came of them.
_FEW = 20
_PUBLISH_MORE_S = 5.0


def add_arguments(off: argparse.ArgumentParser) -> None:
    """Add the options of ``ktls off`` to a parser that has those of the inventory."""
    off.add_argument("--wave", type=int, metavar="N", help="only hosts of wave N of the newest rollout (see --run)")
    off.add_argument("--run", metavar="RUN", help="the rollout that --wave means")
    off.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="only this host, in the inventory or not; repeatable",
    )
    off.add_argument("--reason", default="ktls off", help="kept on the hosts with the flag")
    off.add_argument(
        "--drain", type=float, default=15.0, help="seconds to watch old connections (default: %(default)s)"
    )
    off.add_argument(
        "--pool",
        type=int,
        default=DEFAULT_POOL,
        help="hosts that are reached for at the same time (default: %(default)s)",
    )
    off.add_argument(
        "--publish", action="append", type=Path, default=[], metavar="DIR",
        help="put the signed flag there too, instead of what the inventory says (ktls_pull_publish); repeatable",
    )  # fmt: skip
    off.add_argument("--flag-key", type=Path, metavar="KEY", help="instead of ktls_pull_key: the key that signs it")
    off.add_argument("--flag-fleet", metavar="NAME", help="instead of ktls_pull_fleet: the fleet it is for")
    off.add_argument("--no-publish", action="store_true", help="leave the signed flag alone")
    off.add_argument(
        "--inventory-wait",
        type=float,
        default=PATIENCE_S,
        metavar="SECONDS",
        help="what the inventory has to answer before its last good answer is used (default: %(default)s)",
    )
    off.add_argument("--hosts", action="store_true", help="a line for each host, also of a large fleet")
    off.add_argument("--json", action="store_true", help="one JSON object")


def main(arguments: argparse.Namespace) -> int:
    """Everything back to userspace TLS, now. See the module for the exit status."""
    return Off(arguments).run()


class Off:
    """One off, as its options ask for it.

    :param by: who asks; None: the operator who sits here.
    :param quiet: nothing is shown while it runs.
    """

    def __init__(self, arguments: argparse.Namespace, *, by: str | None = None, quiet: bool = False) -> None:
        self._asked = arguments
        self._by, self._quiet = by, quiet
        self._started = _process_started()
        self._shown = 0.0
        self._history: History | None = None
        self._told: dict[str, Any] = {"run": None, "told": False, "error": None}
        self._publisher: Publisher | None = None
        self._published = Published()

    def run(self) -> int:
        """Carry it out and report it; the exit status."""
        return self._report(*self._perform())

    def perform(self) -> dict[str, Any]:
        """Carry it out; what ``--json`` prints."""
        results, source = self._perform()
        took = latency.fleet(results)
        return self._document(results, took, source, self._status(results, source))

    def _perform(self) -> tuple[list[OffResult], Source]:
        asked = self._asked
        known = runs(asked.inventory, asked.group)
        # First, since it takes no time: nothing is to be ordered any more while hosts are being switched off.
        self._stop_rollout(known[0] if known else None)
        members = tuple(wave_hosts(known, asked.wave, asked.run)) if asked.wave is not None else None
        selection = Selection(asked.inventory, asked.group, asked.limit, tuple(asked.host), members)
        targets = Targets(selection, patience_s=max(0.0, asked.inventory_wait))
        hosts = targets.first()
        with OffRun(
            reason=asked.reason,
            started=self._started,
            drain_s=asked.drain,
            pool=max(1, asked.pool),
            progress=self._tell,
        ) as off:
            self._off = off
            off.add(hosts)
            self._publish(selection)
            while off.busy or targets.pending:
                off.step()
                off.add(targets.more())
                self._draw()
            self._clear()
        if self._publisher:
            self._published = self._publisher.wait(_PUBLISH_MORE_S)
        return [self._with_outlook(off.results[name], known) for name in off.hosts], targets.source

    def _stop_rollout(self, newest: Run | None) -> None:
        if newest is None or not newest.under_way():
            return
        self._told["run"] = newest.name
        try:
            stop(newest, self._by or operator(), self._asked.reason)
            self._told["told"] = True
        except ControlError as error:
            self._told["error"] = f"run {newest.name} could not be told to end: {error.message}"

    def _publish(self, selection: Selection) -> None:
        asked = self._asked
        if asked.no_publish:
            return
        variables: dict[str, Any] = {}
        for host in self._off.hosts.values():
            variables = {**host.vars, **variables}
            if "ktls_pull_publish" in variables or "ktls_pull_publish_command" in variables:
                break
        try:
            wanted = settings(variables, directories=asked.publish, key=asked.flag_key, fleet=asked.flag_fleet)
        except ControlError as error:
            self._published = Published(True, [], error.message)
            return
        if wanted is None:
            return
        if not selection.everything:
            if asked.publish:
                why = "the signed flag was not published: it is for the whole fleet, and this off was for a part of it"
                self._published = Published(True, [], why)
            return
        self._publisher = Publisher(wanted, asked.reason)

    def _with_outlook(self, result: OffResult, known: list[Run]) -> OffResult:
        if result.reachable:
            return result
        if self._history is None:
            self._history = History(known)
        pulls = bool(self._off.hosts[result.host].vars.get("ktls_pull_endpoints"))
        flag = (self._published.ok or None) if pulls else False
        try:
            seen = outlook(result.host, self._history, time.time(), flag=flag)
        except (ValueError, TypeError, AttributeError, KeyError):
            seen = outlook(result.host, [], time.time(), flag=flag)  # a journal that nobody can understand
        return replace(result, outlook=seen)

    def _complaints(self) -> list[str]:
        return [each for each in (self._told["error"], self._published.error) if each]

    def _status(self, results: list[OffResult], source: Source) -> int:
        done = bool(results) and all(result.ok for result in results)
        return FAILED if not done else LOOK if self._complaints() or not source.certain else OK

    def _report(self, results: list[OffResult], source: Source) -> int:
        took = latency.fleet(results)
        status = self._status(results, source)
        if self._asked.json:
            print(json.dumps(self._document(results, took, source, status)))
            return status
        for result in results:
            if not result.ok:
                print(words.host(result))
        for line in words.source(source):
            print(line)
        if self._told["told"]:
            print(f"rollout {self._told['run']} was under way: told to end")
        if self._published.places:
            print(f"signed flag that says off: {', '.join(self._published.places)}")
        for line in self._complaints():
            print(f"NOT DONE: {line}")
        for line in words.summary(results, took):
            print(line)
        return status

    def _document(self, results: list[OffResult], took: Latencies, source: Source, status: int) -> dict[str, Any]:
        return {
            "ok": status == OK,
            "status": status,
            "started": self._started,
            "took_s": round(time.time() - self._started, 3),
            "hosts": {result.host: result.as_dict() for result in results},
            "fleet": asdict(took),
            "inventory": asdict(source),
            "rollout": self._told,
            "flag": self._published.as_dict(),
        }

    def _tell(self, result: OffResult) -> None:
        """A line for a host as soon as it is done, where that does not bury the rest."""
        if self._asked.json or not (self._asked.hosts or len(self._off.hosts) <= _FEW) or not result.ok:
            return
        self._clear()
        print(words.host(result), flush=True)

    def _draw(self) -> None:
        if self._quiet or not sys.stderr.isatty():
            return
        now = time.monotonic()
        if now - self._shown < 0.2:
            return
        self._shown = now
        hosts = len(self._off.hosts)
        text = f"off: {self._off.flags_up} of {hosts} flags up, {len(self._off.results)} done"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if not self._quiet and sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _process_started() -> float:
    """When this command was given, in seconds since the epoch: Python's own start counts too."""
    now = time.time()
    try:
        # proc(5): starttime is field 22, in clock ticks since boot; fields after the name, which may have spaces.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return now
    # Older than a start can be: we were called inside of another program.
    return now - age if 0.0 <= age <= 5.0 else now
