# SPDX-License-Identifier: Apache-2.0
"""``ktls plan``: exit status, what is written, and where the policy comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control import inventory as inventory_of_ansible
from ktls_control import sentinel
from ktls_control.cli import main
from ktls_control.plan import file
from ktls_control.plan.model import Hardware
from ktls_control.playbook import PlaybookRun
from ktls_control.reach import Reach, Reply

from ..test_preflight import info
from ..test_preflight_events import event
from .fleet import status
from .test_file import small
from .test_hw import card


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An inventory of two hosts that can take the phase; nobody had a drill."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    inventory("{}")

    def events(run: PlaybookRun) -> Iterator[dict[str, Any]]:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.returncode = 0
        for host in ("web1", "web2"):
            yield event("ok", host, info=info())

    def ask(_reach: Reach, names: Sequence[str], verb: str, **_arguments: Any) -> Iterator[Reply]:
        for name in names:
            well = verb == "status"
            yield Reply(name, status() if well else None, None if well else f"{name}: no such verb", None, True, 0.0)

    def read(path: str, _limit: str | None) -> dict[str, Any]:
        """As ansible-inventory lists it, which takes a second."""
        group = yaml.safe_load(Path(path).read_text())["ktls_hosts"]
        variables = {name: {**group["vars"], **(own or {})} for name, own in group["hosts"].items()}
        return {"ktls_hosts": {"hosts": list(group["hosts"])}, "_meta": {"hostvars": variables}}

    monkeypatch.setattr("ktls_control.inventory._read", read)
    monkeypatch.setattr(PlaybookRun, "events", events)
    monkeypatch.setattr(Reach, "ask", ask)
    return tmp_path


def inventory(policy: str, other: str = "ansible_host: 192.0.2.2") -> None:
    Path("hosts.yml").write_text(
        f"ktls_hosts:\n  hosts:\n    web1:\n    web2: {{{other}}}\n  vars:\n    ktls_policy: {policy}\n"
    )


def ktls(*arguments: str) -> int:
    return main(["plan", "-i", "hosts.yml", *arguments])


def test_a_plan_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    inventory("{drill_required: false}")
    assert ktls("--phase", "tx", "-o", "p.yml") == 0
    plan = file.load(Path("p.yml"))
    assert (len(plan.waves), plan.inventory) == (2, str(Path("hosts.yml").resolve()))
    assert capsys.readouterr().out.endswith("p.yml: 2 of 2 hosts in 2 waves\nnext: ktls apply p.yml\n")
    assert ktls("--show", "p.yml") == 0
    assert "wave 1 canary" in capsys.readouterr().out


def test_nobody_and_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert ktls() == 1
    assert "drill_missing   2 hosts   web[1-2]" in capsys.readouterr().out
    assert not Path("plan.yml").exists()


def test_hosts_with_the_same_trouble_say_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_reach: Reach, names: Sequence[str], _verb: str, **_arguments: Any) -> Iterator[Reply]:
        for name in names:
            yield Reply(name, None, f"{name} unreachable: connection refused", None, True, 0.0)

    monkeypatch.setattr(Reach, "ask", ask)
    assert ktls() == 1
    assert "agent_silent   2 hosts   web[1-2]" in (out := capsys.readouterr().out)
    assert out.count("HOST unreachable: connection refused") == 1


def test_json_is_the_plan_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert ktls("--json") == 1
    out = json.loads(capsys.readouterr().out)
    assert (out["phase"], out["waves"], list(out["refused"])) == ("tx", [], ["web1", "web2"])


def test_a_policy_file_beats_the_inventory() -> None:
    Path("policy.yml").write_text(
        "ktls_policy: {drill_required: false, waves: ['100%'], caps: {kernel: 1, nic_model: 1}}\n"
    )
    assert ktls("--policy", "policy.yml") == 0
    assert len(file.load(Path("plan.yml")).waves) == 1


def test_series_are_read_of_a_few_hosts_that_no_name_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = Reach.ask

    def ask(reach: Reach, names: Sequence[str], verb: str, **arguments: Any) -> Iterator[Reply]:
        if verb == "series":
            asked.extend(names)
        yield from plain(reach, names, verb, **arguments)

    monkeypatch.setattr(Reach, "ask", ask)
    for salt in "abcdefgh":
        inventory(f"{{noise_hosts: 1, salt: {salt}}}")
        ktls()
    assert len(asked) == 8 and set(asked) == {"web1", "web2"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "none.yml"], "none.yml: No such file"),
        (["--phase", "hw"], "phase hw needs a sentinel"),
        (["--phase", "tz"], "there is no phase 'tz'"),
        (["-o", "none/plan.yml"], "none/plan.yml: no file can be written there"),
        (["-o", "."], ".: no file can be written there"),
        (["--show", "none.yml"], "make one with `ktls plan -o none.yml`"),
    ],
)
def test_refused_in_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ktls(*arguments) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_bad_policy_of_the_inventory(capsys: pytest.CaptureFixture[str]) -> None:
    inventory("{sok: {}}")
    assert ktls() == 1
    assert "hosts.yml: ktls_policy: sok: there is no such key; did you mean soak?" in capsys.readouterr().err
    inventory("{}", other="ktls_policy: {salt: x}")
    assert ktls() == 1
    assert "ktls_policy of web2 is not that of web1" in capsys.readouterr().err


def test_an_edited_plan_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    file.save(small(), Path("p.yml"))
    Path("p.yml").write_text(Path("p.yml").read_text().replace("failure_budget: 0", "failure_budget: 9"))
    assert ktls("--show", "p.yml") == 1
    assert "make a new plan" in capsys.readouterr().err


def test_wrong_usage() -> None:
    with pytest.raises(SystemExit) as caught:
        ktls("--phases", "tx")
    assert caught.value.code == 2


def test_nothing_heavy_is_loaded_for_help() -> None:
    code = "import sys; from ktls_control.cli import _parser; _parser('plan'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"rich", "scipy", "paramiko", "matplotlib", "ktls_control.plan.build"} & set(done.stdout.split())


def test_hw_with_and_without_somebody_who_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    able = status(phase="tx", order="committed", ordered_phase="tx", hw=card(consent=True))

    def ask(_reach: Reach, names: Sequence[str], verb: str, **_arguments: Any) -> Iterator[Reply]:
        for name in names:
            yield Reply(name, able if verb == "status" else None, None, None, True, 0.0)

    monkeypatch.setattr(Reach, "ask", ask)
    inventory("{drill_required: false}")
    assert ktls("--phase", "hw", "--without-sentinel", "-o", "p.yml") == 0
    assert file.load(Path("p.yml")).hardware == Hardware((), True, 0.0)
    assert "sentinel  none, as was said" in capsys.readouterr().out
    read = inventory_of_ansible._read

    def watched(path: str, limit: str | None) -> dict[str, Any]:
        found = read(path, limit)
        found["_meta"]["hostvars"]["s1"] = {"ansible_host": "192.0.2.9"}
        return {**found, "ktls_sentinels": {"hosts": ["s1"]}}

    monkeypatch.setattr(inventory_of_ansible, "_read", watched)
    monkeypatch.setattr(sentinel, "ask", lambda hosts: {host.name: {"ok": True, "armed": False} for host in hosts})
    assert ktls("--phase", "hw", "-o", "p.yml") == 0
    assert file.load(Path("p.yml")).hardware == Hardware(("s1",), False, 0.0)
    out = capsys.readouterr().out
    assert "sentinel: no sentinel is armed: s1: not armed: no wave is opened while that is so" in " ".join(out.split())
