# SPDX-License-Identifier: Apache-2.0
"""What one task of a playbook asks of a host's agent, and what it has to say then.

The same code answers behind the modules ``ktls_order`` and ``ktls_evidence`` and behind ``ktls-agent task``, which
takes a request from its standard input, so that a control node need not send a module along with each question.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from . import datapath_status, drift, order, series
from .errors import KtlsError
from .jsonsock import call

#: Of a request, bytes at most: far more than any has.
MAX_REQUEST = 1024 * 1024
TIMEOUT_S = 60.0
#: How long a datapath may take to be back in userspace, and between two looks at it (seconds).
BACK_S = 45.0
LOOK_AGAIN_S = 0.5
_WISH = ("state", "phase", "id", "epoch", "lease_s", "plan_sha256", "reason", "experiment", "end_experiment")
_NUMBER = (int, float)
_COMMON: dict[str, Any] = {"socket": str, "timeout_s": _NUMBER}
_KNOWN: dict[str, dict[str, Any]] = {
    "order": {
        **_COMMON, "state": str, "phase": str, "id": str, "epoch": int, "lease_s": _NUMBER, "plan_sha256": str,
        "reason": str, "experiment": dict, "end_experiment": bool, "facts": dict, "probe": bool,
    },
    "evidence": {**_COMMON, "series": bool, "since_s": _NUMBER},
}  # fmt: skip
_SHOWN = ("phase", "order", "order_id", "epoch", "off")


def do_order(arguments: Mapping[str, Any], *, check: bool) -> dict[str, Any]:
    """Read the status, decide, ask, and return what the agent says then: ``changed``, ``status``, ``diff``.

    ``arguments`` are those of module ``ktls_order``; ``timeout_s`` is for each answer, in seconds. With ``check``
    nothing is changed. Raises :class:`KtlsError`: the agent's, ``facts_drifted`` and ``restart_needed``.
    """
    wish = order.Wish(**{name: arguments[name] for name in _WISH if arguments.get(name) is not None})
    path, timeout_s = _agent(arguments)
    before = after = call(path, {"verb": "status"}, timeout_s)
    if wish.state == "ordered":
        drift.refuse_drift(before, arguments.get("facts") or {})
    changed = order.needs_change(before, wish)
    if changed and check:
        order.refuse_early(before, wish)
    elif changed:
        after = call(path, order.request(wish), timeout_s)
    if wish.state in ("reverted", "switched_off") and not check:
        after = _until_back(path, after, timeout_s)
    if wish.state == "switched_off" and not check:
        _refuse_half_off(after)
    if arguments.get("probe") and not (changed and check):
        after = call(path, {"verb": "probe"}, timeout_s)
    shown = after if after is not before or not changed else order.predict(before, wish)
    return {"changed": changed, "status": after, "diff": {"before": _show(before), "after": _show(shown)}}


def _until_back(path: str, status: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return the status once what serves is back in userspace, or at the end of our patience: a reload takes its time.

    What nobody may restart is not waited for. The sidecar has answered by then, or is down.
    """
    deadline = time.monotonic() + BACK_S
    while time.monotonic() < deadline:
        served = datapath_status.of(status)
        hopeless = served.switch == "restart" and bool(served.draining_processes) and not served.restart_consent
        if served.is_sidecar or hopeless or not datapath_status.stays(status):
            break
        time.sleep(LOOK_AGAIN_S)
        status = call(path, {"verb": "status"}, timeout_s)
    return status


def _refuse_half_off(status: Mapping[str, Any]) -> None:
    """Raise :class:`KtlsError` where off could not do all of it: processes that nobody may restart keep kTLS.

    Or where nobody can say: then others have to look.
    """
    served = datapath_status.of(status)
    if served.switch == "restart" and served.draining_processes and not served.restart_consent:
        how = f"systemctl restart {served.unit or served.kind}"
        raise KtlsError(
            "restart_needed", f"configuration off, {served.draining_processes} processes keep kTLS until restart: {how}"
        )
    if not served.is_sidecar and datapath_status.stays(status):
        raise KtlsError("not_confirmed", f"the flag is up, and {datapath_status.stays(status)}")


def do_evidence(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for a probe, then for the series: ``changed`` (never), ``status``, ``series``, ``series_error``.

    ``arguments`` are those of module ``ktls_evidence``. Raises :class:`KtlsError`: the agent's answer to the probe.
    """
    path, timeout_s = _agent(arguments)
    status = call(path, {"verb": "probe"}, timeout_s)
    found, said = None, None
    if arguments.get("series", True):
        try:
            answer = series.fetch(lambda request: call(path, request, timeout_s), arguments.get("since_s"))
            found = answer["series"]
        except KtlsError as error:
            said = error.message
    return {"changed": False, "status": status, "series": found, "series_error": said}


def answer(request: Any) -> dict[str, Any]:
    """Do what ``{"task": "order" or "evidence", "check": bool, "arguments": {...}}`` asks for.

    :returns: the result; a failure is one too: ``failed``, ``msg``, ``error_code``. Never raises for what was asked.
    """
    try:
        name, arguments = _read(request)
        return do_order(arguments, check=request["check"]) if name == "order" else do_evidence(arguments)
    except KtlsError as error:
        return {"failed": True, "changed": False, "msg": error.message, "error_code": error.code}


def main(source: IO[bytes] | None = None) -> int:
    """Answer the request on standard input, in one line; 0 done, 1 refused or failed."""
    given = (source or sys.stdin.buffer).read(MAX_REQUEST + 1)
    try:
        request = json.loads(given) if len(given) <= MAX_REQUEST else None
    except (ValueError, RecursionError):
        request = None
    said = answer(request)
    sys.stdout.write(json.dumps({"ktls_task": said}, separators=(",", ":")) + "\n")
    sys.stdout.flush()
    return 1 if said.get("failed") else 0


def _read(request: Any) -> tuple[str, dict[str, Any]]:
    """The task and its arguments. What this release does not know is refused, never left out."""
    if not isinstance(request, dict) or not isinstance(request.get("arguments"), dict):
        raise KtlsError("bad_task", "what came on standard input is no task; `ktls apply` writes them")
    name, arguments = request.get("task"), request["arguments"]
    known = _KNOWN.get(name) if isinstance(name, str) else None
    wrong = (
        [f"task {name}"] if known is None else [key for key, value in arguments.items() if not _fits(known, key, value)]
    )
    wrong += sorted(set(request) - {"task", "check", "arguments"})
    wrong += [] if isinstance(request.get("check"), bool) else ["check"]
    if name == "order" and arguments.get("state") not in order.STATES:
        wrong.append(f"state {arguments.get('state')}")
    if wrong:
        raise KtlsError(
            "bad_task",
            f"the agent's release does not understand what it is asked ({', '.join(wrong)}): deploy the release of the "
            "control node (ktls deploy)",
        )
    return str(name), arguments


def _fits(known: Mapping[str, Any], key: str, value: Any) -> bool:
    wanted = known.get(key)
    # A bool is an int to isinstance(); a number that is none (NaN) does not go over the agent's socket.
    return (
        wanted is not None
        and isinstance(value, wanted)
        and (isinstance(value, bool) == (wanted is bool))
        and value == value
    )


def _agent(arguments: Mapping[str, Any]) -> tuple[str, float]:
    return arguments.get("socket") or order.AGENT_SOCKET, float(arguments.get("timeout_s") or TIMEOUT_S)


def _show(status: Mapping[str, Any]) -> str:
    return "".join(f"{name}: {json.dumps(status.get(name), sort_keys=True)}\n" for name in _SHOWN)
