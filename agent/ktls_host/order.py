# SPDX-License-Identifier: Apache-2.0
"""What a client of the agent wants, what that would change, and the request that says so. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from .errors import KtlsError

AGENT_SOCKET = "/run/ktls-agent/agent.sock"
STATES = ("observed", "ordered", "confirmed", "extended", "cancelled", "reverted", "switched_off", "cleared")
PHASES = ("userspace", "tx", "rx", "hw")


class Wish(NamedTuple):
    """``state`` is one of ``STATES``; the rest belongs to ``ordered`` (all of it), ``extended`` (id, epoch, lease_s,
    end_experiment), ``confirmed`` and ``cancelled`` (id, epoch), ``reverted`` (id, if only that order is meant).

    ``experiment``: what happens while the order is pending, as the agent takes it (docs/orders.md).
    ``lease_s`` is in seconds: how long the order holds unconfirmed, from the moment of asking. No dataclass: a zipapp
    would import and compile what that needs for each task of a rollout.
    """

    state: str
    phase: str | None = None
    id: str | None = None
    epoch: int | None = None
    lease_s: float | None = None
    plan_sha256: str = ""
    reason: str = ""
    experiment: dict[str, Any] | None = None
    end_experiment: bool = False


def needs_change(status: dict[str, Any], wish: Wish) -> bool:
    """Return whether ``wish`` changes a host whose agent reports ``status``: check mode and real run agree on it."""
    order = status.get("order")
    same = status.get("order_id") == wish.id and status.get("epoch") == wish.epoch
    flag = bool((status.get("off") or {}).get("flag"))
    in_userspace = status.get("phase") == "userspace"
    if wish.state == "ordered":
        taken = order in ("pending", "committed") and status.get("ordered_phase") == wish.phase
        return not (same and taken)
    if wish.state == "confirmed":
        return not (same and order == "committed")
    if wish.state == "extended":
        left = status.get("lease_left_s")
        if wish.end_experiment and (status.get("experiment") or {}).get("state") in ("waiting", "running"):
            return True
        return not (same and order == "pending" and left is not None and left >= (wish.lease_s or 0.0))
    if wish.state == "cancelled":
        return not (same and order in ("reverted", "stuck"))
    if wish.state == "reverted":
        # Named, it is taken back only if it is the one: another rollout's order is none of ours.
        return (wish.id is None or status.get("order_id") == wish.id) and (
            order in ("pending", "committed") or not in_userspace
        )
    if wish.state == "switched_off":
        return not (flag and in_userspace)
    if wish.state == "cleared":
        return flag
    return False


def refuse_early(status: dict[str, Any], wish: Wish) -> None:
    """Raise the :class:`KtlsError` that the agent would answer with, as far as ``status`` tells: for check mode."""
    if wish.state in ("extended", "cancelled"):
        if (status.get("order_id"), status.get("epoch")) != (wish.id, wish.epoch):
            raise KtlsError("wrong_order", f"order {wish.id} of epoch {wish.epoch} is not in force on this host")
        if status.get("order") != "pending":
            raise KtlsError("not_pending", f"order {wish.id} is {status.get('order')} on this host, not pending")
        return
    if wish.state != "ordered" or wish.epoch is None:
        return
    high = int(status.get("epoch") or 0)
    if wish.epoch < high:
        message = f"epoch {wish.epoch} is older than {high}, which this host has seen: a newer rollout owns it"
        raise KtlsError("stale_epoch", message)
    if wish.phase != "userspace" and (status.get("off") or {}).get("flag"):
        message = "the off flag is set on this host: no kTLS order is taken until it is cleared (state: cleared)"
        raise KtlsError("off_latched", message)
    if wish.phase != "userspace" and status.get("stuck"):
        message = "a revert is stuck on this host: no kTLS order is taken until it is repaired and cleared"
        raise KtlsError("stuck", message)


def request(wish: Wish) -> dict[str, Any]:
    """Return the request for the agent's socket."""
    if wish.state == "ordered":
        order = {
            "id": wish.id,
            "epoch": wish.epoch,
            "phase": wish.phase,
            "lease_s": wish.lease_s,
            "plan_sha256": wish.plan_sha256,
            **({} if wish.experiment is None else {"experiment": wish.experiment}),
        }
        return {"verb": "order", "order": order}
    if wish.state in ("confirmed", "cancelled"):
        verb = "confirm" if wish.state == "confirmed" else "cancel"
        return {"verb": verb, "id": wish.id, "epoch": wish.epoch}
    if wish.state == "extended":
        ends = {"experiment": None} if wish.end_experiment else {}
        return {"verb": "extend", "id": wish.id, "epoch": wish.epoch, "lease_s": wish.lease_s, **ends}
    if wish.state in ("reverted", "switched_off"):
        verb = "revert" if wish.state == "reverted" else "off"
        return {"verb": verb, "reason": wish.reason or "asked for by an operator"}
    return {"verb": "clear" if wish.state == "cleared" else "status"}


def predict(status: dict[str, Any], wish: Wish) -> dict[str, Any]:
    """Return the part of the status that ``wish`` leads to: "after" in check mode."""
    if wish.state == "ordered":
        taken = {"order": "pending", "order_id": wish.id, "epoch": wish.epoch, "phase": wish.phase}
        return {**status, **taken}
    if wish.state == "confirmed":
        return {**status, "order": "committed"}
    if wish.state == "cleared":
        return {**status, "off": {"flag": False}}
    if wish.state == "extended":
        return {**status, "lease_left_s": wish.lease_s}
    if wish.state in ("cancelled", "reverted", "switched_off"):
        order = "reverted" if status.get("order") in ("pending", "committed") else status.get("order")
        off = {"flag": True} if wish.state == "switched_off" else status.get("off")
        return {**status, "phase": "userspace", "order": order, "off": off}
    return status
