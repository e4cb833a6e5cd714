# SPDX-License-Identifier: Apache-2.0
"""``ktls plan``: the command line."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ControlError


def add_parser(verbs: Any, fleet: argparse.ArgumentParser) -> None:
    """Add ``plan``.

    :param fleet: the options that say which hosts.
    """
    plan = verbs.add_parser(
        "plan",
        parents=[fleet],
        help="decide who takes a phase when, and write it down (see docs/plan.md)",
        description="Looks at every host, changes none, and writes a plan for `ktls apply`. "
        "Exit status: 0 the plan is written, 1 nobody is eligible or something was refused, 2 wrong usage.",
    )
    plan.add_argument("--phase", default="tx", help="userspace, tx, rx or hw (default: %(default)s)")
    plan.add_argument(
        "-o", "--output", type=Path, default=Path("plan.yml"), metavar="FILE", help="default: %(default)s"
    )
    plan.add_argument("--policy", type=Path, metavar="FILE", help="waves, soak, gates (see playbooks/vars/policy.yml)")
    plan.add_argument("--show", type=Path, metavar="FILE", help="show that plan; look at no host")
    plan.add_argument("--read-only", action="store_true", help="do not load module tls for the time of the test")
    plan.add_argument(
        "--without-sentinel",
        action="store_true",
        help="phase hw though nobody watches the wire for plaintext; the plan and its report say so",
    )
    plan.add_argument("--hosts", action="store_true", help="every name, also of a large fleet")
    plan.add_argument("--json", action="store_true", help="one JSON object: the plan")
    plan.set_defaults(func=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.show:
        from .file import load

        _tell(load(arguments.show), arguments)
        return 0
    from ..screen import console
    from ..tree import log_directory
    from .build import build
    from .file import save
    from .gather import look
    from .noise import detector

    # Said now: to look at a large fleet is minutes of work.
    if arguments.output.is_dir() or not os.access(arguments.output.parent, os.W_OK):
        raise ControlError("bad_output", f"{arguments.output}: no file can be written there: name another with -o")
    log = log_directory() / f"{time.strftime('%Y%m%d-%H%M%S')}-plan.log"
    ask, seen, policy = look(
        arguments.phase,
        arguments.inventory,
        arguments.group,
        arguments.limit,
        arguments.policy,
        console(stderr=arguments.json),
        log,
        load_module=not arguments.read_only,
        quiet=arguments.json,
        without_sentinel=arguments.without_sentinel,
    )
    plan = build(ask, seen, policy, detector(seen))
    if plan.waves:
        plan = save(plan, arguments.output)
    _tell(plan, arguments)
    return 0 if plan.waves else 1


def _tell(plan: Any, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(asdict(plan)))
        return
    from ..screen import console
    from .screen import draw

    written = None if arguments.show or not plan.waves else arguments.output
    draw(console(), plan, hosts=arguments.hosts, written=written)
