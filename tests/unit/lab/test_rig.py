# SPDX-License-Identifier: Apache-2.0
"""``ktls lab up --rig``, without a lab."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ktls_lab import api, cli
from ktls_lab.errors import LabError
from ktls_lab.state import LabState


@pytest.mark.parametrize(("options", "rig"), [([], False), (["--rig"], True)])
def test_the_option_is_handed_on(monkeypatch: pytest.MonkeyPatch, options: list[str], rig: bool) -> None:
    asked: list[dict[str, Any]] = []

    def up(*_given: object, **named: Any) -> api.Lab:
        asked.append(named)
        raise LabError("enough")

    monkeypatch.setattr(api, "up", up)
    assert cli.main(["up", *options]) == 1
    assert asked == [{"rig": rig}]


def test_a_host_that_does_not_take_the_card_says_why(
    labs: Path, make_state: Callable[[str], LabState], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = api.Lab(make_state("one"))
    answer = subprocess.CompletedProcess(["ssh"], 1, "", "modprobe: FATAL: Module tlssim not found\n")
    monkeypatch.setattr(api.Lab, "ssh", lambda *_given, **_named: answer)
    with pytest.raises(LabError) as caught:
        lab.add_rig("web2")
    assert str(caught.value) == (
        "web2: cannot set up the offload rig of image debian13: modprobe: FATAL: Module tlssim not found"
    )
