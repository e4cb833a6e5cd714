# SPDX-License-Identifier: Apache-2.0
"""docs/datapaths.md: its codes are codes of plans, and its numbers are what the judge reckons with."""

from __future__ import annotations

import re
from pathlib import Path

from ktls_control.judge import looks, metrics
from ktls_control.plan.model import Gates
from ktls_control.plan.policy import SOAK
from ktls_control.plan.refusals import CURES

TEXT = (Path(__file__).parents[2] / "docs/datapaths.md").read_text()


def test_codes_are_those_of_a_plan() -> None:
    table = TEXT.partition("## What a plan says")[2].partition("## ")[0]
    codes = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert codes and codes <= set(CURES)


def test_how_many_hosts_a_comparison_needs() -> None:
    gates = Gates(method="difference")
    main = looks.schedule(gates, SOAK, 3).main
    words = " ".join(TEXT.split())
    for alpha, form in (
        (gates.alpha, "3 of them against {}, or 2 against {}"),
        (gates.alpha / 2, "3 against {}, or 2 against {}"),
    ):
        level = main.level(looks.alpha_fail(alpha))
        assert form.format(*(metrics.hosts_needed(k, level) - k for k in (3, 2))) in words
