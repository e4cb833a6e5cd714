# SPDX-License-Identifier: Apache-2.0
"""Wrong requests are refused with a code and a cure."""

from __future__ import annotations

import pytest

from ktls_control.errors import ControlError
from ktls_control.request import Request, check

GOOD = {"verb": "rollout", "group": "web", "hosts": ["a"], "phase": "tx", "waves": [1, "25%", "100%"]}


def test_a_good_request_passes() -> None:
    check(Request(**GOOD, soak_max_s=60, lease_s=90))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"hosts": None}, "no_group"),
        ({"hosts": []}, "empty_group"),
        ({"phase": None}, "no_phase"),
        ({"phase": "on"}, "unknown_phase"),
        ({"waves": []}, "bad_waves"),
        ({"waves": [True]}, "bad_waves"),
        ({"waves": ["0%"]}, "bad_waves"),
        ({"waves": ["101%"]}, "bad_waves"),
        ({"waves": [-1]}, "bad_waves"),
        ({"soak_max_s": 60.0, "lease_s": 89.0}, "short_lease"),
    ],
)
def test_a_wrong_request_is_refused(change: dict[str, object], code: str) -> None:
    with pytest.raises(ControlError) as caught:
        check(Request(**{**GOOD, **change}))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert "\n" not in caught.value.message
