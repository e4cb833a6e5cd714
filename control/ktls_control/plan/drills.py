# SPDX-License-Identifier: Apache-2.0
"""Drills on record: ``drills.json`` in the fleet's directory.

``{"hosts": {HOST: {"at", "passed", "detail"?, "host"?: {"kernel", "openssl"}}}, "hw": {HOST: ...}}``: ``hosts`` are
drills of phase ``tx``, on which every other phase rests; phase ``hw`` has its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ControlError

FILE = "drills.json"


@dataclass(frozen=True)
class Drill:
    """The last drill of a host.

    :param at: seconds since the epoch, control node.
    :param detail: what did not pass.
    :param kernel: that ran then, and the version of ``openssl``; empty: not on record.
    :param datapath: kind and unit of what served then, as in ``nginx nginx.service``; the sidecar has no unit.
    :param program: that served, with its version; empty: not on record.
    """

    at: float
    passed: bool
    detail: str = ""
    kernel: str = ""
    openssl: str = ""
    datapath: str = "sidecar"
    program: str = ""


def load(fleet: Path, phase: str = "tx") -> dict[str, Drill]:
    """Drills by host; none when nobody ever drilled. An entry that cannot be read is none.

    :param fleet: the fleet's directory, see :mod:`ktls_control.rollout.store`.
    :param phase: that is planned.
    :raises ControlError: ``bad_drills``.
    """
    path = fleet / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ControlError("bad_drills", f"{path}: {error}: move it away and drill again (ktls drill)") from error
    hosts = data.get("hosts") if isinstance(data, Mapping) else None
    if phase == "hw" and isinstance(hosts, Mapping):
        hosts = data.get("hw") or {}
    if not isinstance(hosts, Mapping):
        raise ControlError("bad_drills", f"{path}: it has no hosts: move it away and drill again (ktls drill)")
    found = {}
    for name, entry in hosts.items():
        if isinstance(entry, Mapping) and isinstance(entry.get("at"), int | float):
            host = entry.get("host")
            host = host if isinstance(host, Mapping) else {}
            found[str(name)] = Drill(
                float(entry["at"]),
                entry.get("passed") is True,
                str(entry.get("detail") or ""),
                str(host.get("kernel") or ""),
                str(host.get("openssl") or ""),
                str(host.get("datapath") or "sidecar"),
                str(host.get("program") or ""),
            )
    return found
