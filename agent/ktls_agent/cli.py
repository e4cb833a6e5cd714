# SPDX-License-Identifier: Apache-2.0
"""``ktls-agent``: the service, and the commands that talk to it.

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the agent cannot be reached.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from typing import Any

from ktls_host.commandline import FAILED, OK, reader_gone, refused
from ktls_host.errors import KtlsError

from . import defaults
from .version import VERSION

USAGE = 2
_QUICK_S = 15.0
_SLOW_S = 120.0  # order and probe wait for a handshake and a transfer, an order also for a reload of nginx


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.verb == "serve":
            return _serve(arguments)
        if arguments.verb == "report":
            return _report(arguments)
        if arguments.verb == "series":
            return _series(arguments)
        if arguments.verb == "diag":
            from . import config, diag

            settings = config.load(arguments.config)
            return diag.main(settings.probe.port, settings.evidence)
        if arguments.verb == "helper":
            from .helper import serve

            return serve.main(arguments.name)
        if arguments.verb == "nginx-watch":
            from .nginx_watch import service

            return service.main(arguments.config)
        if arguments.verb == "task":
            from ktls_host import task

            return task.main()
        if arguments.verb == "pull":
            return _pull(arguments)
        if arguments.verb == "watch":
            return _watch(arguments)
        if arguments.verb == "doctor":
            from .doctor import gather

            return gather.main(arguments)
        if arguments.verb == "audit":
            from . import audit_cli

            return audit_cli.main(arguments)
        return _one(arguments)
    except KtlsError as error:
        if arguments.verb == "off" and error.code in ("unreachable", "timeout", "protocol"):
            return _off_without_agent(arguments, error)
        return refused("ktls-agent", error, as_json=getattr(arguments, "json", False))
    except BrokenPipeError:
        return reader_gone()
    except KeyboardInterrupt:
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ktls-agent", description="The kTLS agent of this host.")
    parser.add_argument("--version", action="version", version=f"ktls-agent {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    for verb, text in (("serve", "run the service"), ("diag", "answer for sock_diag (started by systemd)")):
        service = verbs.add_parser(verb, help=text)
        service.add_argument("--config", default=defaults.CONFIG, help="default: %(default)s")

    helper = verbs.add_parser("helper", help="do root's part of one request (started by systemd)")
    helper.add_argument("name", choices=("lease", "module", "nic", "nginx", "service"))
    nginx = verbs.add_parser("nginx-watch", help="count what nginx logs (started by systemd)")
    nginx.add_argument("--config", default="/etc/ktls/nginx.json", help="default: %(default)s")
    verbs.add_parser("task", help="do one task of a playbook: request and answer are JSON (for programs)")
    pull = verbs.add_parser("pull", help="fetch the signed off flag again and again (a service of its own)")
    pull.add_argument("--config", default="/etc/ktls/pull.json", help="default: %(default)s")

    def client(verb: str, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("--socket", default=defaults.SOCKET, help="default: %(default)s")
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    client("status", "what is in force")
    order = client("order", "apply a phase provisionally")
    order.add_argument("--id", required=True)
    order.add_argument("--epoch", required=True, type=int)
    order.add_argument("--phase", required=True, help="userspace, tx, rx or hw")
    order.add_argument("--lease", required=True, type=float, metavar="SECONDS", help="revert unless confirmed by then")
    order.add_argument("--plan-sha256", required=True, metavar="HEX")
    order.add_argument("--experiment", metavar="JSON", help='{"method", "block_s", "washout_s", "seed"}: while pending')
    confirm = client("confirm", "make the pending order durable")
    confirm.add_argument("--id", required=True)
    confirm.add_argument("--epoch", required=True, type=int)
    extend = client("extend", "let the pending order hold longer")
    extend.add_argument("--id", required=True)
    extend.add_argument("--epoch", required=True, type=int)
    extend.add_argument("--lease", "--lease-s", required=True, type=float, metavar="SECONDS", help="from now on")
    extend.add_argument("--end-experiment", action="store_true", help="and every new connection takes the phase")
    cancel = client("cancel", "undo the pending order, if it is this one")
    cancel.add_argument("--id", required=True)
    cancel.add_argument("--epoch", required=True, type=int)
    revert = client("revert", "undo the order: userspace")
    revert.add_argument("--reason", default="revert on the host")
    revert.add_argument("--unload", action="store_true", help="unload module tls too, if nobody uses it")
    off = client("off", "kill switch: userspace, latched until cleared")
    off.add_argument("--reason", default="off on the host")
    off.add_argument("--run-flag", default=f"{defaults.RUN_DIR}/off", help=argparse.SUPPRESS)
    off.add_argument("--durable-flag", default=f"{defaults.STATE_DIR}/off", help=argparse.SUPPRESS)
    client("report", "shares of bytes, cost, activation, drift").set_defaults(socket=defaults.METRICS_SOCKET)
    series = client("series", "samples of the last hours, one every few seconds (for programs)")
    series.add_argument("--since-s", type=float, metavar="SECONDS", help="those that end after this, CLOCK_BOOTTIME")
    client("clear", "remove the off flag, and try again what is stuck (switches nothing on)")
    client("probe", "fetch the probe object and look at its socket")
    watch = client("watch", "print the status again and again")
    watch.add_argument("--interval", type=float, default=1.0, metavar="SECONDS")
    doctor = client("doctor", "what is wrong here, with numbers, and what to do")
    doctor.add_argument("--sidecar-socket", default="/run/ktls-sidecar/control.sock", help=argparse.SUPPRESS)
    _audit_parser(verbs)
    return parser


def _audit_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    audit = verbs.add_parser("audit", help="the trail of everything that was ordered and done here")
    kinds = audit.add_subparsers(dest="audit_verb", required=True, metavar="VERB")
    verify = kinds.add_parser("verify", help="check that nothing of it was changed, taken out or put in")
    verify.add_argument("--head", action="append", default=[], metavar="SHA256", help="a hash that must be in it")
    anchor = f"{os.path.dirname(defaults.SOCKET)}/audit.head"
    verify.add_argument("--anchor", default=anchor, help="file with the last hash; default: %(default)s")
    show = kinds.add_parser("show", help="print it")
    show.add_argument("--since", default="", metavar="TIME", help="2026-03-01, 2026-03-01T10:00, or 90m, 2h, 3d ago")
    for sub in (verify, show):
        sub.add_argument("--directory", default=f"{defaults.STATE_DIR}/audit", help="default: %(default)s")
        sub.add_argument("--json", action="store_true", help="print JSON")


def _serve(arguments: argparse.Namespace) -> int:
    import asyncio
    import logging

    from . import config, daemon

    # The journal adds time and unit; one line an event.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    asyncio.run(daemon.main(config.load(arguments.config)))
    return OK


def _pull(arguments: argparse.Namespace) -> int:
    import logging

    from .pull import config as pull_config
    from .pull import service

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    service.main(pull_config.load(arguments.config))
    return OK


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    verb: str = arguments.verb
    if verb == "order":
        order = {
            "id": arguments.id,
            "epoch": arguments.epoch,
            "phase": arguments.phase,
            "lease_s": arguments.lease,
            "plan_sha256": arguments.plan_sha256,
            **({} if arguments.experiment is None else {"experiment": _json(arguments.experiment)}),
        }
        return {"verb": verb, "order": order}
    if verb in ("confirm", "cancel"):
        return {"verb": verb, "id": arguments.id, "epoch": arguments.epoch}
    if verb == "extend":
        more = {"experiment": None} if arguments.end_experiment else {}
        return {"verb": verb, "id": arguments.id, "epoch": arguments.epoch, "lease_s": arguments.lease, **more}
    if verb == "revert" and arguments.unload:
        return {"verb": verb, "reason": arguments.reason, "unload": True}
    if verb in ("revert", "off"):
        return {"verb": verb, "reason": arguments.reason}
    return {"verb": "status" if verb == "watch" else verb}


def _one(arguments: argparse.Namespace) -> int:
    from ktls_host import jsonsock

    limit = _SLOW_S if arguments.verb in ("order", "probe") else _QUICK_S
    status = jsonsock.call(arguments.socket, _request(arguments), limit)
    print(json.dumps(status, sort_keys=True) if arguments.json else _render(status))
    if arguments.verb == "probe":
        return OK if (status.get("probe") or {}).get("ok") else FAILED
    if arguments.verb == "off":
        # Done means read back. A sidecar that does not answer has the flag before it, but has not shown it.
        shown = status["sidecar"] is not None and status["phase"] == "userspace"
        return OK if status["off"]["flag"] and shown else FAILED
    return OK


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise KtlsError("bad_order", f"--experiment is not JSON: {error}") from error


def _series(arguments: argparse.Namespace) -> int:
    from ktls_host import jsonsock, series

    found = series.fetch(lambda request: jsonsock.call(arguments.socket, request, _QUICK_S), arguments.since_s)
    if arguments.json:
        print(json.dumps(found, separators=(",", ":")))
    else:
        shown = found["series"]
        age_s = shown["now_s"] - shown["began_s"]
        print(f"{len(shown['samples']['at_ms'])} samples of {shown['period_s']:g} s; kept since {age_s:.0f} s ago")
    return OK


def _report(arguments: argparse.Namespace) -> int:
    from . import report

    document = report.fetch(arguments.socket, _QUICK_S)
    print(json.dumps(document, sort_keys=True) if arguments.json else report.render(document))
    return OK


def _watch(arguments: argparse.Namespace) -> int:
    from ktls_host import jsonsock

    interval = max(0.1, arguments.interval)
    following = time.monotonic()
    while True:
        # A watch outlives a restart of the agent: a gap is a line too, never silence.
        try:
            status = jsonsock.call(arguments.socket, {"verb": "status"}, _QUICK_S)
            line = json.dumps(status, sort_keys=True) if arguments.json else _render(status).replace("\n", "; ")
        except KtlsError as error:
            line = json.dumps({"ok": False, "error": error.as_dict()}) if arguments.json else error.message
        print(line, flush=True)
        following = max(following + interval, time.monotonic())
        time.sleep(max(0.0, following - time.monotonic()))


def _off_without_agent(arguments: argparse.Namespace, error: KtlsError) -> int:
    """The agent is dead: write the flags ourselves; the sidecar looks at them by itself."""
    from .flags import OffFlags

    flags = OffFlags(arguments.run_flag, arguments.durable_flag)
    failure = ""
    try:
        flags.write_run(arguments.reason)
    except OSError as problem:
        failure = f"{problem.filename}: {problem.strerror}; run ktls-off as root"
    with contextlib.suppress(OSError):
        flags.write_durable(arguments.reason)
    there = any(flags.present())
    outcome = "the off flag is set, the sidecar obeys it by itself" if there else failure
    host = os.uname().nodename
    print(f"ktls-agent: {host}: {error.message}; {outcome}", file=sys.stderr)
    return OK if there else FAILED


def _render(status: dict[str, Any]) -> str:
    from .page import render

    return render(status)
