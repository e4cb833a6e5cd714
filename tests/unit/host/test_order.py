# SPDX-License-Identifier: Apache-2.0
"""What a wish changes: idempotence of each state, early refusals, and the words sent to the agent."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_host import order
from ktls_host.errors import KtlsError
from ktls_host.order import Wish

IDLE: dict[str, Any] = {
    "phase": "userspace",
    "order": "none",
    "order_id": None,
    "ordered_phase": None,
    "epoch": 6,
    "off": {"flag": False, "age_s": None, "reason": None},
}
PENDING = {**IDLE, "phase": "tx", "order": "pending", "order_id": "r7", "ordered_phase": "tx", "epoch": 7}
COMMITTED = {**PENDING, "order": "committed"}
REVERTED = {**PENDING, "phase": "userspace", "order": "reverted"}
OFF = {**REVERTED, "off": {"flag": True, "age_s": 3.0, "reason": "drill"}}

ORDERED = Wish("ordered", phase="tx", id="r7", epoch=7, lease_s=60.0)
CONFIRMED = Wish("confirmed", id="r7", epoch=7)


@pytest.mark.parametrize(
    ("status", "wish", "changes"),
    [
        (IDLE, Wish("observed"), False),
        (OFF, Wish("observed"), False),
        (IDLE, ORDERED, True),
        (PENDING, ORDERED, False),
        (COMMITTED, ORDERED, False),
        (REVERTED, ORDERED, True),
        (PENDING, Wish("ordered", phase="tx", id="r8", epoch=8), True),
        (PENDING, Wish("ordered", phase="tx", id="other", epoch=7), True),
        (PENDING, Wish("ordered", phase="userspace", id="r7", epoch=7), True),
        (PENDING, CONFIRMED, True),
        (COMMITTED, CONFIRMED, False),
        (COMMITTED, Wish("confirmed", id="r6", epoch=6), True),
        (PENDING, Wish("extended", id="r7", epoch=7, lease_s=60.0), True),
        ({**PENDING, "lease_left_s": 61.0}, Wish("extended", id="r7", epoch=7, lease_s=60.0), False),
        (COMMITTED, Wish("extended", id="r7", epoch=7, lease_s=60.0), True),
        (PENDING, Wish("cancelled", id="r7", epoch=7), True),
        (PENDING, Wish("cancelled", id="r6", epoch=7), True),
        (REVERTED, Wish("cancelled", id="r7", epoch=7), False),
        ({**REVERTED, "order": "stuck"}, Wish("cancelled", id="r7", epoch=7), False),
        (IDLE, Wish("reverted"), False),
        (REVERTED, Wish("reverted"), False),
        (PENDING, Wish("reverted"), True),
        (COMMITTED, Wish("reverted"), True),
        ({**REVERTED, "phase": "tx"}, Wish("reverted"), True),
        (IDLE, Wish("switched_off"), True),
        (COMMITTED, Wish("switched_off"), True),
        (OFF, Wish("switched_off"), False),
        ({**OFF, "phase": "tx"}, Wish("switched_off"), True),
        (OFF, Wish("cleared"), True),
        (IDLE, Wish("cleared"), False),
        ({}, Wish("cleared"), False),
        ({}, Wish("switched_off"), True),
    ],
)
def test_needs_change(status: dict[str, Any], wish: Wish, changes: bool) -> None:
    assert order.needs_change(status, wish) is changes


@pytest.mark.parametrize(
    "state", ["ordered", "confirmed", "extended", "cancelled", "reverted", "switched_off", "cleared"]
)
@pytest.mark.parametrize("status", [IDLE, PENDING, COMMITTED, OFF])
def test_predicted_status_needs_nothing_more(status: dict[str, Any], state: str) -> None:
    wish = Wish(state, phase="tx", id="r7", epoch=7, lease_s=60.0)
    if state in ("confirmed", "extended", "cancelled") and status is not PENDING:
        return
    after = order.predict({**status, "ordered_phase": "tx"}, wish)
    assert not order.needs_change(after, wish)


@pytest.mark.parametrize(
    ("status", "wish", "code"),
    [
        (PENDING, Wish("ordered", phase="tx", id="r6", epoch=6), "stale_epoch"),
        (OFF, Wish("ordered", phase="tx", id="r8", epoch=8), "off_latched"),
        ({**REVERTED, "stuck": True}, Wish("ordered", phase="tx", id="r8", epoch=8), "stuck"),
        (PENDING, Wish("extended", id="r6", epoch=6, lease_s=60.0), "wrong_order"),
        (COMMITTED, Wish("extended", id="r7", epoch=7, lease_s=60.0), "not_pending"),
        (COMMITTED, Wish("cancelled", id="r7", epoch=7), "not_pending"),
    ],
)
def test_early_refusals(status: dict[str, Any], wish: Wish, code: str) -> None:
    with pytest.raises(KtlsError) as caught:
        order.refuse_early(status, wish)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("status", "wish"),
    [
        (PENDING, ORDERED),
        (PENDING, Wish("cancelled", id="r7", epoch=7)),
        (PENDING, Wish("extended", id="r7", epoch=7, lease_s=60.0)),
        (OFF, Wish("ordered", phase="userspace", id="r8", epoch=8)),
        (OFF, Wish("switched_off")),
        (OFF, Wish("reverted")),
        (IDLE, CONFIRMED),
    ],
)
def test_nothing_else_is_refused_early(status: dict[str, Any], wish: Wish) -> None:
    order.refuse_early(status, wish)


@pytest.mark.parametrize(
    ("wish", "request_"),
    [
        (
            ORDERED,
            {
                "verb": "order",
                "order": {"id": "r7", "epoch": 7, "phase": "tx", "lease_s": 60.0, "plan_sha256": ""},
            },
        ),
        (CONFIRMED, {"verb": "confirm", "id": "r7", "epoch": 7}),
        (Wish("extended", id="r7", epoch=7, lease_s=5.0), {"verb": "extend", "id": "r7", "epoch": 7, "lease_s": 5.0}),
        (Wish("cancelled", id="r7", epoch=7), {"verb": "cancel", "id": "r7", "epoch": 7}),
        (Wish("reverted", reason="gate"), {"verb": "revert", "reason": "gate"}),
        (Wish("switched_off"), {"verb": "off", "reason": "asked for by an operator"}),
        (Wish("cleared"), {"verb": "clear"}),
        (Wish("observed"), {"verb": "status"}),
    ],
)
def test_requests(wish: Wish, request_: dict[str, Any]) -> None:
    assert order.request(wish) == request_


def test_an_experiment_goes_along_and_can_be_ended() -> None:
    trial = {"method": "switchback", "block_s": 30.0, "washout_s": 5.0, "seed": 7}
    wish = Wish("ordered", phase="tx", id="r7", epoch=7, lease_s=60.0, experiment=trial)
    assert order.request(wish)["order"]["experiment"] == trial
    assert "experiment" not in order.request(ORDERED)["order"]
    longer = Wish("extended", id="r7", epoch=7, lease_s=60.0, end_experiment=True)
    assert order.request(longer)["experiment"] is None
    held = {**PENDING, "lease_left_s": 61.0, "experiment": {"state": "running"}}
    assert order.needs_change(held, longer)
    assert not order.needs_change({**held, "experiment": {"state": "ended"}}, longer)
