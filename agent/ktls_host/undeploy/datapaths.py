# SPDX-License-Identifier: Apache-2.0
"""Servers that were here before us: they get their own configuration back, hear of it, and go on serving.

The sidecar needs nothing here: it goes whole. A new datapath that leaves more than files with a record, for example one
that has to reload, adds a :class:`Taker`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import originals, textfile
from ..errors import KtlsError
from ..nginx import root as nginx_root
from ..nginx import settings as nginx_settings
from ..nginx.root import Nginx
from ..service import adopt as service
from .levers import Report, Tools, Wish


@dataclass(frozen=True)
class Taker:
    """``there`` tells whether the host has any of it; ``work`` takes it away, or with ``check`` says what that takes.

    What somebody else has edited it refuses; when that shall stay, it leaves the record to :mod:`.levers`.
    """

    there: Callable[[str], bool]
    work: Callable[[Wish, bool, Tools], Report]


def take_away(wish: Wish, tools: Tools, *, check: bool = False) -> Report:
    """Take every datapath away that is there. Raises :class:`KtlsError`: those of each."""
    report = Report()
    for taker in TAKERS:
        if taker.there(tools.root):
            report.add(taker.work(wish, check, tools))
    return report


def _nginx_settings(root: str) -> nginx_settings.Settings:
    """Those of the deploy; where they are gone or damaged, those that most hosts have."""
    with contextlib.suppress(KtlsError):
        return nginx_settings.load(textfile.under(root, nginx_settings.PATH))
    return nginx_settings.Settings(probe_port=1, server_name="localhost")


def _nginx_there(root: str) -> bool:
    places = _nginx_settings(root).places
    switched = any(os.path.lexists(textfile.under(root, path)) for path in (places.on, places.owed))
    return switched or nginx_root.LEVER in originals.levers(root)


def _nginx(wish: Wish, check: bool, tools: Tools) -> Report:
    settings = _nginx_settings(tools.root)
    nginx = Nginx(settings, tools.root, tools.runner, sleep=tools.sleep)
    if wish.keep and originals.plan_restore(nginx_root.LEVER, tools.root).edited:
        # Somebody's own file by now: the switch goes, and what the record says is still ours.
        there = [path for path in (settings.places.on, settings.places.owed) if _there(path, tools.root)]
        if there and not check:
            nginx.off()
    else:
        there = [str(path) for path in nginx.remove(check=check)["removed"]]
    return Report([f"{path}: remove, and have {settings.unit} read its configuration again" for path in there])


def _service_unit(root: str) -> str | None:
    for path in (service.RECORD, "/etc/ktls/service.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(textfile.read(root, path) or "{}")["unit"])
    return None


def _service_there(root: str) -> bool:
    return _service_unit(root) is not None and any(
        name == service.LEVER or name.startswith(f"{service.LEVER}:") for name in originals.levers(root)
    )


def _service(wish: Wish, check: bool, tools: Tools) -> Report:
    unit = str(_service_unit(tools.root))
    if wish.keep and originals.plan_restore(service.LEVER, tools.root).edited:
        return Report()  # its records say what may go (levers), and what stays
    done = service.absent(unit, wish.restart_ok, check_only=check, runner=tools.runner, root=tools.root)
    steps = [f"{unit}: as it was found", *(f"restart {name}" for name in done.restarted)] if done.changed else []
    return Report(steps, left=list(done.notes))


def _there(path: str, root: str) -> bool:
    return os.path.lexists(textfile.under(root, path))


TAKERS: Sequence[Taker] = (Taker(_nginx_there, _nginx), Taker(_service_there, _service))
