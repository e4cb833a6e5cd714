# SPDX-License-Identifier: Apache-2.0
"""What people write after --regression."""

from __future__ import annotations

import pytest

from ktls_control.errors import ControlError
from ktls_control.simulate.regression import Regression, Where, parse


@pytest.mark.parametrize(
    ("text", "metric", "change", "rate", "where"),
    [
        ("cpu +8% on nic_model=X", "cpu", 0.08, None, Where(label=("nic_model", "X"))),
        ("cpu 8%", "cpu", 0.08, None, Where()),
        ("throughput -5% on  30 hosts", "throughput", -0.05, None, Where(hosts=30)),
        ("latency +20% on 2.5% of hosts", "latency", 0.2, None, Where(share=0.025)),
        ("errors +0.1% on rack=r 1", "errors", 0.001, None, Where(label=("rack", "r 1"))),
        ("errors 2/min on 1 host", "errors", 0.0, 2 / 60, Where(hosts=1)),
        ("errors +3/s", "errors", 0.0, 3.0, Where()),
        ("errors 6/h on kernel=6.12.1", "errors", 0.0, 6 / 3600, Where(label=("kernel", "6.12.1"))),
    ],
)
def test_forms(text: str, metric: str, change: float, rate: float | None, where: Where) -> None:
    assert parse(text) == Regression(metric, pytest.approx(change), rate, where, " ".join(text.split()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "", "cpu", "memory +8%", "cpu 8", "cpu +8% nic_model=X", "cpu +8% on mars", "cpu +8% on colour=red",
        "cpu 2/min", "cpu -100%", "errors -1%", "errors +101%", "latency +5% on 101% of hosts", "cpu +8% on rack=",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ControlError) as caught:
        parse(text)
    assert caught.value.code == "bad_regression"
    assert "\n" not in caught.value.message
    assert "cpu +8% on nic_model=X" in caught.value.message
