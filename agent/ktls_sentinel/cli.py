# SPDX-License-Identifier: Apache-2.0
"""``ktls-sentinel``: the service, and the commands that talk to it.

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 the sentinel cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from ktls_host.commandline import OK, reader_gone, refused
from ktls_host.errors import KtlsError
from ktls_host.version_option import add_version

_CONFIG = "/etc/ktls/sentinel.json"
_SOCKET = "/run/ktls-sentinel/sentinel.sock"
_CALL_S = 15.0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.verb == "serve":
            return _serve(arguments.config)
        return _ask(arguments)
    except KtlsError as error:
        return refused("ktls-sentinel", error, as_json=getattr(arguments, "json", False))
    except BrokenPipeError:
        return reader_gone()
    except KeyboardInterrupt:
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ktls-sentinel", description="Looks for plaintext on the wire.")
    add_version(parser)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    serve = verbs.add_parser("serve", help="run the service")
    serve.add_argument("--config", default=_CONFIG, help="default: %(default)s")
    texts = {"status": "what is watched, and what was found", "clear": "forget the leaks that were found"}
    for verb, text in texts.items():
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("--socket", default=_SOCKET, help="default: %(default)s")
        sub.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _serve(path: str) -> int:
    import asyncio
    import logging

    from . import config, service

    # The journal adds time and unit; one line an event.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    asyncio.run(service.serve(config.load(path)))
    return OK


def _ask(arguments: argparse.Namespace) -> int:
    from ktls_host import jsonsock

    answer = jsonsock.call(arguments.socket, {"verb": arguments.verb}, _CALL_S)
    if arguments.json:
        print(json.dumps(answer, sort_keys=True))
    elif arguments.verb == "clear":
        print(f"cleared {answer['cleared']} leaks")
    else:
        print(render(answer))
    return OK


def render(status: dict[str, Any]) -> str:
    """Return the status for people. Pure."""
    now = status["now"]
    state = f"armed since {_time(status['since'])}" if status["armed"] else f"NOT ARMED: {status['why']}"
    lines = [f"{state}; interface {status['interface']}"]
    for name, target in sorted(status["targets"].items()):
        age = "never" if target["last_ok"] is None else f"{max(0.0, now - target['last_ok']):.0f} s ago"
        how = f"; {target['tls']} {target['cipher']}" if target["tls"] else ""
        lines.append(f"{name}: watched {target['probes']} times, last {age}{how}; {target['packets']} packets")
        if target["error"]:
            lines.append(f"  {target['error']}")
    for leak in status["leaks"]:
        where = f"{leak['src']} to {leak['dst']}"
        lines.append(f"PLAINTEXT: {where}, block {leak['block']} of the probe file, first at {_time(leak['at'])}")
    if not status["leaks"]:
        lines.append("no plaintext was seen")
    return "\n".join(lines)


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
