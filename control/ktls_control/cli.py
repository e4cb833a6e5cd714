# SPDX-License-Identifier: Apache-2.0
"""The ``ktls`` command: one verb a playbook, and the quick ways that need none."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import ControlError

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_DEFAULT_INVENTORY = "inventory/lab"


def main(argv: Sequence[str] | None = None) -> int:
    """:returns: 0 done and read back, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    given = sys.argv[1:] if argv is None else argv
    arguments = _parser(next((word for word in given if not word.startswith("-")), None)).parse_args(given)
    # A supervisor's SIGTERM unwinds like any other end, so that a lab in hand is taken down.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        return int(arguments.func(arguments))
    except ControlError as error:
        if getattr(arguments, "json", False):
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps({"error": {"code": error.code, "message": error.message}}), flush=True)
        print(f"ktls: {error.message}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("ktls: interrupted; `ktls status` shows where the hosts are", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away; nothing is left to be told.
        sys.stderr.close()
        return EXIT_OK


def _parser(wanted: str | None) -> argparse.ArgumentParser:
    """Options of verb ``wanted``; of the others, where that costs time, only their names (off is waited for)."""
    parser = argparse.ArgumentParser(
        prog="ktls", description="Kernel TLS over a fleet: turn on by phases, off at once."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show version, commit and lock, and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    fleet = argparse.ArgumentParser(add_help=False)
    fleet.add_argument("-i", "--inventory", default=_DEFAULT_INVENTORY, help="Ansible inventory (default: %(default)s)")
    fleet.add_argument("--group", default="ktls_hosts", help="group of the inventory (default: %(default)s)")
    fleet.add_argument("-l", "--limit", help="Ansible host pattern that narrows the group")

    preflight = verbs.add_parser("preflight", parents=[fleet], help="which hosts can take a phase, and why not")
    preflight.add_argument("--phase", default="tx", help="phase to check for (default: %(default)s)")
    preflight.add_argument(
        "--read-only",
        action="store_true",
        help="do not load module tls for the time of the test; hosts without it stay unproved",
    )
    preflight.add_argument("--hosts", action="store_true", help="a row for each host, also of a large fleet")
    preflight.add_argument("--json", action="store_true", help="one JSON object")
    preflight.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the JSON object to a file too")
    preflight.set_defaults(func=_preflight)

    deploy = verbs.add_parser("deploy", parents=[fleet], help="install agent and sidecar, serving in userspace TLS")
    deploy.add_argument("--check", action="store_true", help="change nothing, show what would change")
    deploy.set_defaults(func=_deploy)

    rollout = verbs.add_parser("rollout", parents=[fleet], help="bring the fleet to a phase, wave by wave")
    rollout.add_argument("--phase", required=True, help="userspace, tx, rx or hw")
    rollout.add_argument(
        "--without-sentinel", action="store_true", help="phase hw though nobody watches the wire; the report says so"
    )
    rollout.add_argument("--waves", type=Path, help="file with waves, soak and gates (see playbooks/vars/waves.yml)")
    rollout.add_argument("--clear-off", action="store_true", help="take down the off flag of an earlier `ktls off`")
    rollout.add_argument("--check", action="store_true", help="change nothing, show what would change")
    rollout.set_defaults(func=_rollout)

    status = verbs.add_parser("status", parents=[fleet], help="what is in force, read from every host")
    status.add_argument("--json", action="store_true", help="one JSON object")
    from .view.cli import add_parser as add_report_parser
    from .view.cli import add_watch_options

    add_watch_options(status)
    status.set_defaults(func=_status)

    add_report_parser(verbs, fleet)

    off = verbs.add_parser("off", parents=[fleet], help="everything back to userspace TLS, now, without questions")
    if wanted == "off":
        from .off.cli import add_arguments

        add_arguments(off)
    off.set_defaults(func=_off)

    demo = verbs.add_parser("demo", help="the whole story on a lab: deploy, roll out under load, off, report")
    demo.add_argument("--output", type=Path, default=Path("build/demo"), help="default: %(default)s")
    demo.add_argument("--hosts", type=int, default=3, help="hosts in the lab (default: %(default)s)")
    demo.set_defaults(func=_demo)

    from .rollout_cli import add_parsers as add_rollout_parsers

    add_rollout_parsers(verbs)
    from .drill.verb import add_parser as add_drill_parser

    add_drill_parser(verbs, fleet)

    from .flag_cli import add_parser as add_flag_parser
    from .undeploy.verb import add_parser as add_undeploy_parser

    add_undeploy_parser(verbs, fleet)
    from .plan.cli import add_parser as add_plan_parser
    from .simulate.cli import add_parser as add_simulate_parser

    add_plan_parser(verbs, fleet)
    add_flag_parser(verbs)
    add_simulate_parser(verbs)

    from .judge.cli import add_parser as add_judge_parser

    add_judge_parser(verbs)

    # The lab is a tool of its own; only its command line meets this one.
    if importlib.util.find_spec("ktls_lab") is None:
        lab = verbs.add_parser("lab", help="a fleet of real VMs on this machine (in a checkout)", add_help=False)
        lab.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
        lab.set_defaults(func=_in_a_checkout)
        demo.set_defaults(func=_in_a_checkout)
    elif wanted in (None, "lab"):
        from ktls_lab.cli import add_parser

        add_parser(verbs)
    else:
        verbs.add_parser("lab")
    return parser


def _in_a_checkout(arguments: argparse.Namespace) -> int:
    cure = f"clone the repository, run `make prepare` there, then `ktls {arguments.verb}`"
    raise ControlError("needs_checkout", f"the lab is not part of an installed ktls: {cure}")


class _Version(argparse.Action):
    """Reads the version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_arguments: object) -> None:
        from .build import info

        print(info().words("ktls"))
        parser.exit()


def _console(*, stderr: bool = False) -> Any:
    from .screen import console

    return console(stderr=stderr)


def _log(verb: str) -> Path:
    from .tree import log_directory

    return log_directory() / f"{time.strftime('%Y%m%d-%H%M%S')}-{verb}.log"


def _status(arguments: argparse.Namespace) -> int:
    if arguments.watch or arguments.run:
        from .view.cli import watch

        return watch(arguments, _console())
    from .fleet import read_status
    from .inventory import load
    from .screen import status_table

    fleet = read_status(load(arguments.inventory, arguments.group, arguments.limit))
    if arguments.json:
        print(json.dumps(fleet))
    else:
        _console().print(status_table(fleet))
    well = all(host["reachable"] and "phase" in host for host in fleet["hosts"].values())
    return EXIT_OK if well else EXIT_FAILED


def _off(arguments: argparse.Namespace) -> int:
    from .off.cli import main as off

    return off(arguments)


def _preflight(arguments: argparse.Namespace) -> int:
    from .preflight_screen import draw
    from .verbs import preflight

    # Said now: an answer of a large fleet is minutes of work.
    if arguments.output and (arguments.output.is_dir() or not os.access(arguments.output.parent, os.W_OK)):
        raise ControlError("bad_output", f"{arguments.output}: no file can be written there: name another")
    log = _log("preflight")
    found = preflight(
        arguments.inventory,
        arguments.group,
        arguments.limit,
        arguments.phase,
        _console(stderr=arguments.json),
        log,
        load_module=not arguments.read_only,
        quiet=arguments.json,
    )
    text = json.dumps(found.as_dict()) if arguments.json or arguments.output else ""
    if arguments.json:
        print(text)
    else:
        console = _console()
        draw(console, found, hosts=arguments.hosts)
        if found.unanswered:
            console.print(f"Ansible's own output is in {log}", markup=False, soft_wrap=True)
    if arguments.output:
        try:
            arguments.output.write_text(text + "\n")
        except OSError as error:
            raise ControlError("bad_output", f"{arguments.output}: {error.strerror}; name another file") from error
    return EXIT_OK if found.all_ready else EXIT_FAILED


def _deploy(arguments: argparse.Namespace) -> int:
    from .verbs import deploy

    return deploy(
        arguments.inventory, arguments.group, arguments.limit, _console(), _log("deploy"), check=arguments.check
    )


def _rollout(arguments: argparse.Namespace) -> int:
    from .verbs import rollout

    variables: dict[str, Any] = {"ktls_clear_off": arguments.clear_off}
    if arguments.without_sentinel:
        variables["ktls_without_sentinel"] = True
    if arguments.waves:
        if not arguments.waves.is_file():
            raise ControlError(
                "no_waves", f"{arguments.waves}: no such file; see playbooks/vars/waves.yml for its form"
            )
        variables["ktls_waves_file"] = str(arguments.waves.resolve())
    return rollout(
        arguments.inventory,
        arguments.group,
        arguments.limit,
        arguments.phase,
        _console(),
        _log("rollout"),
        variables=variables,
        check=arguments.check,
    )


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run

    return run(arguments.output, arguments.hosts, _console())


if __name__ == "__main__":
    sys.exit(main())
