# SPDX-License-Identifier: Apache-2.0
"""What the agent remembers over its own death: intent, outcome, highest epoch, progress of a revert. Files in one
directory; one of them, the lease, is for the shell that guards it without us.

Every write is atomic and fsynced with its directory before it counts. A file that cannot be understood is set aside
as ``NAME.corrupt-<time>`` and named in :attr:`Durable.damaged`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import time
from typing import Any, Callable

from ktls_host.errors import KtlsError
from ktls_host.files import atomic_write, sweep

from .effects import PutIntent
from .orders import Order
from .state import Durable, Previous, Revert, StepResult

INTENT = "intent.json"
LEASE = "lease"
RECORD = "order.json"
EPOCH = "epoch"
REVERT = "revert.json"
_MAX_BYTES = 64 * 1024


def _no_checkpoint(_: str) -> None:
    """Stand where tests crash the agent."""


class Store:
    """The durable state under ``directory``. Every method may raise OSError; none leaves half a file behind."""

    def __init__(self, directory: str, checkpoint: Callable[[str], None] = _no_checkpoint) -> None:
        """Name the directory; ``checkpoint(name)`` is called before and after each step that changes it."""
        self.directory = directory
        self._checkpoint = checkpoint

    def load(self) -> Durable:
        """Read everything; set damaged files aside. For a starting agent: also sweeps what a killed one left."""
        damaged: list[str] = []
        for name in (INTENT, LEASE, RECORD, EPOCH, REVERT):
            sweep(os.path.join(self.directory, name))
        intent = self._read(INTENT, _intent, damaged)
        record = self._read(RECORD, _record, damaged)
        epoch = self._read(EPOCH, _epoch, damaged)
        status, order, reason = record or ("none", None, None)
        intent_order, boot_id = intent or (None, "")
        revert, stuck = self._read(REVERT, _revert, damaged) or (None, False)
        return Durable(epoch or 0, intent_order, boot_id, status, order, reason, tuple(damaged), revert, stuck)

    def put_epoch(self, epoch: int) -> None:
        """Make the high-water mark durable."""
        self._put(EPOCH, f"{epoch}\n".encode())

    def put_intent(self, intent: PutIntent, boot_id: str) -> None:
        """Make an intent durable, then its lease. Deadlines are on CLOCK_BOOTTIME of ``boot_id``.

        In between, the intent alone undoes the order. Either file is the old one or the new one, never half of one.
        """
        order = intent.order
        body = {
            "order": order.as_dict(),
            "deadline_boottime_s": intent.deadline_s,
            "since_boottime_s": intent.since_s,
            "boot_id": boot_id,
            "previous": _previous(intent.previous),
        }
        self._put_json(INTENT, body)
        self._put(LEASE, lease_text(order, intent.deadline_s, boot_id).encode("ascii"))

    def has_lease(self) -> bool:
        """Return whether there is a lease, whosever it is."""
        return os.path.lexists(os.path.join(self.directory, LEASE))

    def put_record(self, status: str, order: Order | None, reason: str | None) -> None:
        """Make an outcome durable. A ``reverted`` that cannot be written removes the record instead."""
        body = {"status": status, "order": order.as_dict() if order else None, "reason": reason, "at": time.time()}
        try:
            self._put_json(RECORD, body)
        except OSError:
            if status == "committed":
                # The rename may have happened before the failure: what was not acknowledged must not stay.
                with contextlib.suppress(OSError, ValueError, KtlsError):
                    if _record(self._bytes(RECORD))[:2] == (status, order):
                        self._drop(RECORD)
                raise
            self._drop(RECORD)

    def drop_intent(self) -> None:
        """Remove the lease and the intent, if they are there: first what would act without us."""
        self._drop(LEASE)
        self._drop(INTENT)

    def put_revert(self, revert: Revert, stuck: bool) -> None:
        """Make durable how far a revert has come."""
        body = {
            "order": revert.order.as_dict() if revert.order else None,
            "reason": revert.reason,
            "unload": revert.unload,
            "tries": revert.tries,
            "steps": [dataclasses.asdict(step) for step in revert.steps],
            "stuck": stuck,
        }
        self._put_json(REVERT, body)

    def _put_json(self, name: str, body: dict[str, Any]) -> None:
        self._put(name, (json.dumps({"schema": 1, **body}, sort_keys=True) + "\n").encode())

    def _put(self, name: str, content: bytes) -> None:
        self._checkpoint(f"before put {name}")
        try:
            atomic_write(os.path.join(self.directory, name), content, 0o644)
        except KtlsError as error:
            cause = error.__cause__
            raise (cause if isinstance(cause, OSError) else OSError(errno.EIO, error.message)) from error
        self._checkpoint(f"after put {name}")

    def _drop(self, name: str) -> None:
        path = os.path.join(self.directory, name)
        self._checkpoint(f"before drop {name}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._checkpoint(f"after drop {name}")

    def _bytes(self, name: str) -> bytes:
        with open(os.path.join(self.directory, name), "rb") as handle:
            content = handle.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError("too long")
        return content

    def _read(self, name: str, parse: Callable[[bytes], Any], damaged: list[str]) -> Any:
        try:
            return parse(self._bytes(name))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, KtlsError):
            damaged.append(name)
            path = os.path.join(self.directory, name)
            with contextlib.suppress(OSError):
                os.rename(path, f"{path}.corrupt-{time.time_ns()}")
            return None


def lease_text(order: Order, deadline_s: float, boot_id: str) -> str:
    """Return the lease for the shell. CLOCK_BOOTTIME is what /proc/uptime shows (proc_uptime(5)); never rounded up."""
    deadline = math.floor(deadline_s * 100) / 100
    return f"id={order.id}\nepoch={order.epoch}\nboot_id={boot_id}\ndeadline_s={deadline:.2f}\n"


def _previous(previous: Previous) -> dict[str, Any]:
    order = previous.order.as_dict() if previous.order else None
    return {
        "status": previous.status, "phase": previous.phase, "order": order, "epoch": previous.epoch,
        "mode": previous.mode, "offload": previous.offload,
    }  # fmt: skip


def _intent(content: bytes) -> tuple[Order, str]:
    body = json.loads(content)
    return Order.parse(body["order"]), str(body["boot_id"])


def _record(content: bytes) -> tuple[str, Order | None, str | None]:
    body = json.loads(content)
    status, order, reason = body["status"], body["order"], body["reason"]
    if status not in ("committed", "reverted"):
        raise ValueError("unknown status")
    parsed = None if order is None else Order.parse(order)
    if status == "committed" and parsed is None:
        raise ValueError("committed, but no order")
    return status, parsed, None if reason is None else str(reason)


def _epoch(content: bytes) -> int:
    epoch = int(content.decode("ascii"))
    if epoch < 0:
        raise ValueError("negative epoch")
    return epoch


def _revert(content: bytes) -> tuple[Revert, bool]:
    body = json.loads(content)
    order = None if body["order"] is None else Order.parse(body["order"])
    steps = tuple(
        StepResult(str(one["step"]), str(one["result"]), str(one["detail"]), float(one["at_s"]))
        for one in body["steps"]
    )
    return Revert(order, str(body["reason"]), bool(body["unload"]), int(body["tries"]), steps), bool(body["stuck"])
