# SPDX-License-Identifier: Apache-2.0
"""``ktls flag``: the command line of the signed flag."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .errors import ControlError


def add_parser(verbs: Any) -> None:
    """Add ``flag`` and what it can do."""
    flag = verbs.add_parser("flag", help="the signed flag that hosts pull: sign, verify, publish (see docs/pull.md)")
    actions = flag.add_subparsers(dest="action", required=True, metavar="ACTION")

    sign = actions.add_parser("sign", help="make a signed flag")
    sign.add_argument(
        "--key", type=Path, required=True, help="private key, or the public half of one that an SSH agent holds"
    )
    sign.add_argument("--fleet", required=True, help="name of the fleet, as its hosts are configured")
    state = sign.add_mutually_exclusive_group(required=True)
    state.add_argument("--off", dest="state", action="store_const", const="off", help="hosts go to userspace TLS")
    state.add_argument("--none", dest="state", action="store_const", const="none", help="nothing is asked of hosts")
    sign.add_argument("--reason", help="one line, shown on the hosts; needed with --off")
    sign.add_argument("--serial", type=int, help="a number that grows (default: the time in seconds)")
    sign.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    sign.add_argument("--publish", type=Path, metavar="DIR", help="publish it there at once")
    sign.set_defaults(func=_sign)

    verify = actions.add_parser("verify", help="check a flag as a host does")
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument("--allowed-signers", type=Path, required=True, metavar="FILE")
    verify.add_argument("--json", action="store_true", help="one JSON object")
    verify.set_defaults(func=_verify)

    publish = actions.add_parser(
        "publish", help="put a flag into the directory that a web server serves, whole or not at all"
    )
    publish.add_argument("directory", type=Path, metavar="DIR")
    publish.add_argument("--file", type=Path, help="the flag (default: standard input)")
    publish.add_argument("--allowed-signers", type=Path, metavar="FILE", help="refuse a flag that hosts would refuse")
    publish.set_defaults(func=_publish)


def _sign(arguments: argparse.Namespace) -> int:
    from .flag import publish, sign

    if arguments.state == "off" and not (arguments.reason or "").strip():
        raise ControlError("no_reason", "say why with --reason: it is what everybody sees on the hosts")
    reason = arguments.reason or "nothing is asked"
    body = sign(arguments.key, arguments.fleet, arguments.state, reason, serial=arguments.serial)
    if arguments.output:
        try:
            arguments.output.write_bytes(body)
        except OSError as error:
            raise ControlError("bad_output", f"{arguments.output}: {error.strerror}; name another file") from error
    elif not arguments.publish:
        sys.stdout.write(body.decode())
        sys.stdout.flush()
    if arguments.publish:
        print(f"published {publish(body, arguments.publish)}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from .flag import verify

    checked = verify(arguments.file, arguments.allowed_signers)
    flag = checked.flag
    if arguments.json:
        print(json.dumps({**asdict(flag), "key": checked.key}))
        return 0
    issued = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(flag.issued_at))
    print(f"good: fleet {flag.fleet}, serial {flag.serial}, issued {issued}, says {flag.state}: {flag.reason}")
    print(f"      signed with {checked.key}")
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from .flag import check, publish

    try:
        body = arguments.file.read_bytes() if arguments.file else sys.stdin.buffer.read(8192)
    except OSError as error:
        raise ControlError("not_found", f"{arguments.file}: {error.strerror}; name the file of a flag") from error
    if arguments.allowed_signers:
        check(body, str(arguments.file or "standard input"), arguments.allowed_signers)
    print(f"published {publish(body, arguments.directory)}")
    return 0
