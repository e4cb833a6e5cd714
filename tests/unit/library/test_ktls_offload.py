# SPDX-License-Identifier: Apache-2.0
"""ktls_offload against a directory that plays a host: check mode tells what the real run then does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.errors import KtlsError
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.nic import lever, restore
from ansible_collections.ktls.fleet.plugins.modules import ktls_offload

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.host.nic.fakenic import TX, FakeHost

    Run = Callable[..., dict[str, Any]]
else:
    sys.path.insert(0, str(Path(__file__).parents[1] / "host" / "nic"))
    from fakenic import TX, FakeHost

RULE = "etc/udev/rules.d/90-ktls-fleet-offload-mlx0.rules"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Point the lever at a directory."""
    played = FakeHost(tmp_path, KtlsError)
    played.add("mlx0", "mlx5_core")
    played.add("mlx1", "mlx5_core", {TX: "on"})
    played.add("intel0", "ice", {TX: "off fixed"})
    played.route("mlx0")
    present, absent = lever.present, restore.absent
    there = {"root": str(tmp_path), "runner": played}
    monkeypatch.setattr(lever, "present", lambda desired, **rest: present(desired, **rest, **there))
    monkeypatch.setattr(restore, "absent", lambda desired, **rest: absent(desired, **rest, **there))
    return played


@pytest.mark.parametrize("where", [{"interfaces": ["mlx0", "mlx1"]}, {"driver": "mlx5_core"}, {"default_route": True}])
@pytest.mark.parametrize("what", [{"tx": True}, {"tx": False}, {"tx": True, "rx": True}, {"rx": False}])
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("start", ["bare", "set before"])
def test_check_mode_tells_the_truth(
    host: FakeHost, run: Run, where: dict[str, Any], what: dict[str, bool], persistent: bool, start: str
) -> None:
    if start == "set before":
        run("ktls_offload", interfaces=["mlx0"], tx=True)
    wish = {**where, **what, "persistent": persistent}
    before = host.snapshot()
    predicted = run("ktls_offload", _check=True, **wish)
    assert host.snapshot() == before, "check mode wrote something"
    real = run("ktls_offload", **wish)
    again = run("ktls_offload", **wish)
    for key in ("changed", "steps", "diff", "changed_features", "left_alone"):
        assert predicted[key] == real[key], key
    assert (host.snapshot() != before) == real["changed"]
    assert (again["changed"], again["steps"], again["diff"]) == (False, [], [])


def test_taken_back(host: FakeHost, run: Run) -> None:
    before = host.snapshot()
    run("ktls_offload", driver="mlx5_core", tx=True, rx=True)
    predicted = run("ktls_offload", _check=True, state="absent")
    real = run("ktls_offload", state="absent")
    assert host.snapshot() == before
    for key in ("changed", "steps", "diff", "changed_features"):
        assert predicted[key] == real[key], key
    assert real["changed"] and not run("ktls_offload", state="absent")["changed"]


@pytest.mark.parametrize("check", [True, False])
def test_refusal_has_a_name(host: FakeHost, run: Run, check: bool) -> None:
    result = run("ktls_offload", _check=check, interfaces=["intel0"], tx=True)
    assert result["error_code"] == "nic_no_tls_offload" and "mlx5_core" in result["msg"]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"tx": True}, "any of the following are missing: interfaces, driver, default_route"),
        ({"interfaces": ["mlx0"]}, "any of the following are missing: tx, rx"),
        ({"interfaces": ["mlx0"], "driver": "mlx5_core", "tx": True}, "mutually exclusive"),
        ({"interfaces": ["mlx0"], "tx": True, "state": "gone"}, "must be one of: present, absent"),
    ],
)
def test_arguments_that_do_not_fit(
    host: FakeHost, capsys: pytest.CaptureFixture[str], wish: dict[str, Any], words: str
) -> None:
    """Ansible itself refuses these, and gives no error_code."""
    before = host.snapshot()
    with patch_module_args(wish), pytest.raises(SystemExit):
        ktls_offload.main()
    assert words in json.loads(capsys.readouterr().out)["msg"]
    assert host.snapshot() == before


def test_default_route_false_names_nothing(host: FakeHost, run: Run) -> None:
    assert run("ktls_offload", default_route=False, tx=True)["error_code"] == "no_target"


def test_hand_made_changes_are_in_the_result(host: FakeHost, run: Run) -> None:
    run("ktls_offload", interfaces=["mlx0"], tx=True)
    host.request("mlx0", "rx-gro-list", True)
    (host.root / RULE).write_text("# mine\n")
    assert run("ktls_offload", state="absent")["error_code"] == "edited_meanwhile"
    result = run("ktls_offload", state="absent", edited="keep")
    assert {one["what"] for one in result["left_alone"]} == {"mlx0 rx-gro-list", f"/{RULE}"}
    assert (host.root / RULE).read_text() == "# mine\n"
