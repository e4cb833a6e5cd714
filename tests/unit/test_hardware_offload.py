# SPDX-License-Identifier: Apache-2.0
"""What docs/hardware-offload.md says of drivers is what the code knows of them: every card, cipher and counter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ktls_control.plan.model import Gates
from ktls_control.plan.policy import Policy
from ktls_control.rollout.sentinels import READY_S
from ktls_host.drill.card import ENOUGH_BYTES
from ktls_host.nic.drivers import IMPLEMENTING, NOT_IMPLEMENTING

TEXT = (Path(__file__).parents[2] / "docs/hardware-offload.md").read_text()


def table(name: str) -> list[list[str]]:
    """Rows of the table between its marks, without its head."""
    found = re.search(rf"<!-- {name}\b.*?-->\n(.*?)<!-- /{name} -->", TEXT, re.DOTALL)
    assert found, name
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return [rows[0], *rows[2:]]


def test_every_driver_is_there_with_all_that_is_known_of_it() -> None:
    told = {row[0].strip("`"): row[1:] for row in table("drivers")[1:]}
    known = {}
    for driver in IMPLEMENTING.values():
        on = [{"tx": "transmit", "rx": "receive"}[side] for side, state in driver.default.items() if state]
        known[driver.name] = [
            driver.cards,
            "yes" if driver.tx else "no",
            "yes" if driver.rx else "no",
            ", ".join(on) or "no",
            ", ".join(driver.ciphers),
            driver.option or "",
            "yes" if "tx_tls_encrypted_bytes" in driver.counters else "no",
        ]
    assert told == known
    assert {driver.versions for driver in IMPLEMENTING.values()} == {("TLSv1.2",)}, "the text says so of all of them"


def test_every_counter_is_there_with_the_drivers_that_have_it() -> None:
    head, *rows = table("counters")
    told = {row[0].strip("`"): {name for name, mark in zip(head[1:-1], row[1:-1], strict=True) if mark} for row in rows}
    known: dict[str, set[str]] = {}
    for driver in IMPLEMENTING.values():
        for counter in driver.counters:
            known.setdefault(counter, set()).add(driver.name)
    assert told == known
    assert set(head[1:-1]) == set(IMPLEMENTING)


def test_a_driver_that_is_said_to_have_none_has_none() -> None:
    named = {name for row in table("others")[1:] for cell in row for name in re.findall(r"`(\w+)`", cell)}
    assert len(named) >= 10
    assert named <= set(NOT_IMPLEMENTING)


@pytest.mark.parametrize(
    "words",
    [
        f"`card_share` ({Gates().card_share:.0%})", f"`fallback_margin` ({Gates().fallback_margin:.0%})",
        f"`anomaly_margin` ({Gates().anomaly_margin:.0%})", f"`hw_min_eligible` ({Policy().hw_min_eligible:.0%})",
        f"waited for {READY_S:g} s", f"{ENOUGH_BYTES // 1000} kB of a session",
    ],
)  # fmt: skip
def test_numbers_are_those_of_the_code(words: str) -> None:
    assert words.replace("%", " %") in TEXT
