# SPDX-License-Identifier: Apache-2.0
"""Which hosts off is for while the inventory is slow, broken, unchanged or wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ktls_control import hostlist, inventory
from ktls_control.errors import ControlError
from ktls_control.inventory import Host, host_from_vars
from ktls_control.off.targets import Selection, Targets
from ktls_control.patterns import limited, members

GROUP = "ktls_hosts"


def data(*names: str, **variables: Any) -> dict[str, Any]:
    return {
        "_meta": {"hostvars": {name: {"ansible_host": f"192.0.2.{name}", **variables} for name in names}},
        "all": {"children": ["ungrouped", GROUP]},
        GROUP: {"hosts": list(names)},
        "edge": {"hosts": list(names)[:1]},
    }


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "hosts.yml"
    place.write_text("ktls_hosts:\n  hosts: {'1':, '2':}\n")
    return str(place)


def answers(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[Host]]) -> None:
    monkeypatch.setattr(inventory, "load", lambda *_arguments: answer())


def hosts(*names: str) -> list[Host]:
    return [host_from_vars(name, {"ansible_host": f"192.0.2.{name}"}) for name in names]


def names(found: list[Host]) -> list[str]:
    return [host.name for host in found]


def broken() -> list[Host]:
    raise ControlError("bad_inventory", "hosts.yml: the cloud has no answer")


def changed(path: str) -> None:
    with open(path, "a") as stream:
        stream.write("# changed\n")


def test_a_list_of_unchanged_files_is_used_at_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1", "2"), path, GROUP)
    answers(monkeypatch, lambda: pytest.fail("nobody is asked"))
    targets = Targets(Selection(path, GROUP))
    assert names(targets.first()) == ["1", "2"]
    assert (targets.source.list, targets.source.certain, targets.pending) == ("unchanged", True, False)
    assert names(Targets(Selection(path, GROUP, limit="edge")).first()) == ["1"]


def test_a_changed_file_is_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1", "2"), path, GROUP)
    changed(path)
    answers(monkeypatch, lambda: hosts("3"))
    targets = Targets(Selection(path, GROUP))
    assert names(targets.first()) == ["3"]
    assert targets.source.list == "inventory"


def test_a_broken_inventory_leaves_the_last_good_list(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1", "2"), path, GROUP, now=1000.0)
    changed(path)
    answers(monkeypatch, broken)
    targets = Targets(Selection(path, GROUP))
    assert names(targets.first()) == ["1", "2"]
    assert (targets.source.list, targets.source.at, targets.source.certain) == ("last_good", 1000.0, False)
    assert "the cloud has no answer" in str(targets.source.error)
    assert not targets.pending, "it has failed: there is nothing to wait for"


def test_an_inventory_that_answers_nonsense_is_no_obstacle_either(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1"), path, GROUP)
    changed(path)
    answers(monkeypatch, lambda: [hosts("1")[7]])
    targets = Targets(Selection(path, GROUP))
    assert names(targets.first()) == ["1"]
    assert "IndexError" in str(targets.source.error)


def test_a_slow_inventory_comes_after(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1", "2"), path, GROUP)
    changed(path)
    go = threading.Event()
    answers(monkeypatch, lambda: (go.wait(10), hosts("2", "3"))[1])
    targets = Targets(Selection(path, GROUP), patience_s=0.05)
    assert names(targets.first()) == ["1", "2"]
    assert targets.pending
    assert targets.more() == []
    assert not targets.source.certain
    go.set()
    deadline = time.monotonic() + 5
    while targets.pending and time.monotonic() < deadline:
        late = targets.more()
    assert names(late) == ["2", "3"]
    assert (targets.source.late, targets.source.gone, targets.source.certain) == (("3",), ("1",), True)


def test_one_that_never_answers_is_waited_for_so_long(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1"), path, GROUP)
    changed(path)
    answers(monkeypatch, lambda: (threading.Event().wait(20), hosts("1"))[1])
    now = [0.0]
    targets = Targets(Selection(path, GROUP), clock=lambda: now[0], patience_s=0.05)
    targets.first()
    assert targets.pending
    now[0] = 31.0
    assert not targets.pending
    assert not targets.source.certain


def test_without_a_list_a_broken_inventory_is_an_error_unless_hosts_are_named(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, broken)
    with pytest.raises(ControlError, match="the cloud has no answer"):
        Targets(Selection(path, GROUP)).first()
    targets = Targets(Selection(path, GROUP, hosts=("web9",)))
    assert [(host.name, host.address) for host in targets.first()] == [("web9", "web9")]
    assert targets.source.list == "names"


def test_named_hosts_and_those_of_a_wave_are_found(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1", "2", "3"), path, GROUP)
    targets = Targets(Selection(path, GROUP, hosts=("2", "other")))
    assert [(host.name, host.address) for host in targets.first()] == [("2", "192.0.2.2"), ("other", "other")]
    assert targets.source.unknown == ("other",)
    assert names(Targets(Selection(path, GROUP, members=("3", "1"))).first()) == ["3", "1"]
    assert names(Targets(Selection(path, GROUP, limit="!2")).first()) == ["1", "3"]


def test_a_limit_that_means_nobody_is_an_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostlist.save(data("1"), path, GROUP)
    answers(monkeypatch, lambda: inventory.hosts_of(data("1"), path, "nobody", "zzz"))
    with pytest.raises(ControlError, match="zzz"):
        Targets(Selection(path, GROUP, limit="zzz")).first()


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_secrets_are_not_kept(path: str) -> None:
    secret = {"ansible_password": "s3cret", "ansible_become_password": "s3cret", "vault": "s3cret"}
    hostlist.save(data("1", ansible_user="root", **secret), path, GROUP)
    place = hostlist.place(path, GROUP)
    assert "s3cret" not in place.read_text()
    assert place.stat().st_mode & 0o777 == 0o600
    kept = hostlist.read(path, GROUP)
    assert kept is not None
    assert kept.data["_meta"]["hostvars"]["1"] == {"ansible_host": "192.0.2.1", "ansible_user": "root"}
    assert members(kept.data, "all") == ["1"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "data": [], "at": 1, "signature": null}']
)
def test_a_list_that_is_damaged_is_none(path: str, text: str) -> None:
    hostlist.save(data("1"), path, GROUP)
    hostlist.place(path, GROUP).write_text(text)
    assert hostlist.read(path, GROUP) is None


def test_a_list_that_cannot_be_written_is_no_failure(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", f"{path}/no-directory")
    hostlist.save(data("1"), path, GROUP)
    assert hostlist.read(path, GROUP) is None


def test_the_signature_sees_what_an_answer_depends_on(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {hostlist.signature(path)}
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text("ansible_port: 22\n")
    seen.add(hostlist.signature(path))
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    seen.add(hostlist.signature(path))
    monkeypatch.setenv("ANSIBLE_INVENTORY_ENABLED", "yaml")
    seen.add(hostlist.signature(path))
    assert len(seen) == 4
    assert None not in seen


@pytest.mark.parametrize("kind", ["script", "plugin", "inline", "missing"])
def test_what_is_not_static_has_no_signature(path: str, tmp_path: Path, kind: str) -> None:
    if kind == "script":
        Path(path).chmod(0o755)
    elif kind == "plugin":
        Path(path).write_text("plugin: amazon.aws.aws_ec2\n")
    given = {"inline": "a,b,", "missing": str(tmp_path / "nowhere")}.get(kind, path)
    assert hostlist.signature(given) is None
    (tmp_path / "inv").mkdir()
    if kind in ("script", "plugin"):
        Path(path).rename(tmp_path / "inv" / "hosts.yml")
        assert hostlist.signature(str(tmp_path / "inv")) is None


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("all", "a1 a2 b1"),
        ("a*", "a1 a2"),
        ("a1,b1", "a1 b1"),
        ("a1:b1", "a1 b1"),
        ("edge", "a2"),
        ("all:!edge", "a1 b1"),
        ("!a1", "a2 b1"),
        ("a*:&edge", "a2"),
        ("localhost,b1", "b1"),
        ("nobody", ""),
    ],
)
def test_patterns(limit: str, expected: str) -> None:
    groups = {"_meta": {}, "edge": {"children": ["inner"]}, "inner": {"hosts": ["a2"]}}
    assert " ".join(limited(["a1", "a2", "b1"], groups, limit)) == expected


@pytest.mark.parametrize("limit", ["~a.*", "web[0:3]", "@retry", "all:!~b"])
def test_what_only_ansible_understands_is_an_error(limit: str) -> None:
    with pytest.raises(ControlError, match="only Ansible understands"):
        limited(["a1"], {}, limit)
