# SPDX-License-Identifier: Apache-2.0
"""The corpus of raw requests, and what one of them brings about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from .clients import Endpoint, request
from .raw import ClosedError, MalformedError, Raw

FILE = Path(__file__).parent / "corpus" / "requests.json"
CLOSE_S = 20.0
_PROBE = b"a space\n"
_ASK = request("/dir/a%20b.txt")

Part = Union[str, list[Union[str, int]]]


@dataclass(frozen=True)
class Case:
    """One entry. ``expect`` holds outcomes as :func:`outcome` spells them; one of them must come."""

    name: str
    send: bytes
    expect: tuple[str, ...]
    head: bool
    finish: bool


def load() -> list[Case]:
    """Read the file."""
    cases = json.loads(FILE.read_text())["requests"]
    return [
        Case(name, _bytes(case["send"]), tuple(case["expect"]), case.get("head", False), case.get("finish", False))
        for name, case in cases.items()
    ]


def _bytes(send: str | list[Part]) -> bytes:
    parts = [send] if isinstance(send, str) else send
    text = "".join(part if isinstance(part, str) else str(part[0]) * int(part[1]) for part in parts)
    return text.encode("latin-1")


def outcome(endpoint: Endpoint, case: Case) -> str:
    """Send it and return what came: ``200 open``, ``400 close``, ``200,404 open``, ``close``, ``400 cut``…

    No clock decides, but for a server that does nothing: as many answers are awaited as the entry has at most, then a
    probe shows whether the connection is still open and whether the two sides are in step.
    """
    client = Raw(endpoint, timeout_s=CLOSE_S)
    statuses: list[str] = []
    try:
        longest = max(len(text.split()[0].split(",")) if text[0].isdigit() else 0 for text in case.expect)
        end = _exchange(client, case, statuses, longest)
    except MalformedError as error:
        end = f"malformed {error}"
    except TimeoutError:
        end = "hangs"
    finally:
        client.sock.close()
    return f"{','.join(statuses)} {end}".strip()


def _exchange(client: Raw, case: Case, statuses: list[str], longest: int) -> str:
    try:
        try:
            client.send(case.send)
            if case.finish:
                client.say_goodbye()
        except ConnectionError:
            pass  # closed while we sent: what it answered may still be read
        while len(statuses) < longest:
            statuses.append(str(client.response(head=case.head).status))
        if not case.finish:
            client.send(_ASK)
        probe = client.response()
    except ClosedError as closed:
        return "close" if closed.clean else "cut"
    except ConnectionError:
        return "cut"
    return "open" if (probe.status, probe.body) == (200, _PROBE) else f"out of step ({probe.status})"
