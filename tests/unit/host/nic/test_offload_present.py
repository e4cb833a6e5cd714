# SPDX-License-Identifier: Apache-2.0
"""The offload lever: what it refuses, what it does, and that it undoes what did not work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host import files, originals
from ktls_host.errors import KtlsError
from ktls_host.nic import drivers, lever, restore, udev_rule
from ktls_host.nic.outcome import Outcome, features_argv
from ktls_host.nic.targets import DesiredOffload

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import CSUM, RX, TX, FakeHost
else:
    from fakenic import CSUM, RX, TX, FakeHost

RULE = "etc/udev/rules.d/90-ktls-fleet-offload-mlx0.rules"


def present(host: FakeHost, check: bool = False, **wish: Any) -> Outcome:
    return lever.present(DesiredOffload(**wish), check=check, root=str(host.root), runner=host)  # type: ignore[arg-type]


def absent(host: FakeHost, check: bool = False, **wish: Any) -> Outcome:
    return restore.absent(DesiredOffload(**wish), check=check, root=str(host.root), runner=host)  # type: ignore[arg-type]


def refused(host: FakeHost, **wish: Any) -> KtlsError:
    """Both check mode and the real run refuse alike, and change nothing."""
    before, errors = host.snapshot(), []
    for check in (True, False):
        with pytest.raises(KtlsError) as caught:
            present(host, check=check, **wish)
        errors.append(caught.value)
        assert host.snapshot() == before
    assert errors[0].as_dict() == errors[1].as_dict()
    assert not [argv for argv in host.calls if argv[:2] == ("ethtool", "-K")], "refused before any change"
    return errors[0]


def lines(host: FakeHost, name: str = "mlx0") -> dict[str, str]:
    pairs = (line.strip().partition(": ") for line in host.features(name).splitlines())
    return {name: words for name, _, words in pairs}


@pytest.mark.parametrize("where", [{"interfaces": ("mlx0",)}, {"driver": "mlx5_core"}, {"default_route": True}])
def test_on_and_persistent(host: FakeHost, where: dict[str, Any]) -> None:
    before = host.snapshot()
    predicted = present(host, check=True, tx=True, **where)
    assert host.snapshot() == before, "check mode wrote something"
    done = present(host, tx=True, **where)
    assert (predicted.steps, predicted.diff, predicted.changed_features) == (
        done.steps,
        done.diff,
        done.changed_features,
    )
    assert [step.code for step in done.steps] == ["set_features", "persist", "reload_udev"]
    assert done.steps[0].description == "ethtool -K mlx0 tls-hw-tx-offload on"
    assert done.changed_features == (
        {"interface": "mlx0", "feature": TX, "before": "off", "after": "on", "asked": True},
    )
    assert done.diff[0]["before"] == f"{TX}: off\n" and done.diff[0]["after"] == f"{TX}: on\n"
    assert lines(host)[TX] == "on"
    text = (host.root / RULE).read_text()
    assert 'RUN+="/usr/sbin/ethtool -K $name tls-hw-tx-offload on"' in text
    assert 'NAME=="mlx0"' in text and 'KERNEL=="mlx0"' in text and text.count('ACTION=="add|move"') == 2
    assert [nic["name"] for nic in done.interfaces] == ["mlx0"]
    assert done.interfaces[0]["features"][TX]["on"] is True
    again = present(host, tx=True, **where)
    assert not again.changed and again.diff == () and again.changed_features == ()


def test_nothing_to_do_leaves_no_record(host: FakeHost) -> None:
    assert not present(host, interfaces=("mlx0",), tx=False, persistent=False).changed
    assert originals.levers(str(host.root)) == ()
    assert not absent(host).changed


def test_on_by_default_is_only_made_to_stay(host: FakeHost) -> None:
    host.add("mlx1", "mlx5_core", {TX: "on"})
    done = present(host, interfaces=("mlx1",), tx=True)
    assert [step.code for step in done.steps] == ["persist", "reload_udev"]
    assert done.changed_features == ()


def test_off_clears_a_request_that_waits(host: FakeHost) -> None:
    """Off and requested comes on by itself when checksum offload does: software would not stay software."""
    host.add("mlx1", "mlx5_core", {TX: "on", CSUM: "off"})
    assert lines(host, "mlx1")[TX] == "off [requested on]"
    done = present(host, interfaces=("mlx1",), tx=False)
    assert done.steps[0].description == "ethtool -K mlx1 tls-hw-tx-offload off"
    host.request("mlx1", CSUM, True)
    assert lines(host, "mlx1")[TX] == "off"


def test_off_before_on_in_one_call() -> None:
    assert features_argv("eth0", {TX: True, RX: False})[3:] == (RX, "off", TX, "on")
    assert features_argv("eth0", {RX: True, TX: False})[3:] == (TX, "off", RX, "on")


def test_what_the_kernel_changed_along_is_reported(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """No TLS feature drags others along on a host without cards: another one stands for it."""
    monkeypatch.setitem(drivers.FEATURES, "tx", CSUM)
    predicted = present(host, check=True, interfaces=("mlx0",), tx=False)
    done = present(host, interfaces=("mlx0",), tx=False)
    assert [(one["feature"], one["after"], one["asked"]) for one in done.changed_features] == [
        (CSUM, "off", True),
        ("tx-tcp-segmentation", "off [requested on]", False),
    ]
    assert [one["feature"] for one in predicted.changed_features] == [CSUM]
    assert predicted.diff == done.diff and predicted.steps == done.steps


def test_both_directions_and_several_cards(host: FakeHost) -> None:
    host.add("mlx1", "mlx5_core")
    done = present(host, driver="mlx5_core", tx=True, rx=True)
    assert [step.code for step in done.steps] == ["set_features"] * 2 + ["persist"] * 2 + ["reload_udev"]
    assert {nic["name"] for nic in done.interfaces} == {"mlx0", "mlx1"}
    assert lines(host, "mlx1")[TX] == lines(host, "mlx1")[RX] == "on"


def test_a_later_wish_is_added_to_the_rule(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    present(host, interfaces=("mlx0",), rx=False)
    assert "tls-hw-rx-offload off tls-hw-tx-offload on" in (host.root / RULE).read_text()
    present(host, interfaces=("mlx0",), tx=False)
    assert "tls-hw-rx-offload off tls-hw-tx-offload off" in (host.root / RULE).read_text()


def test_not_persistent_removes_the_rule(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    done = present(host, interfaces=("mlx0",), tx=True, persistent=False)
    assert [step.code for step in done.steps] == ["unpersist", "reload_udev"]
    assert not (host.root / RULE).exists()
    assert lines(host)[TX] == "on"
    present(host, interfaces=("mlx0",), rx=True)
    assert TX not in (host.root / RULE).read_text(), "what was not to persist comes back"


def test_bond_stands_for_its_slaves(host: FakeHost) -> None:
    host.add("mlx1", "mlx5_core")
    host.add_bond("bond0", "802.3ad", "layer3+4", ["mlx0", "mlx1"])
    done = present(host, interfaces=("bond0",), tx=True)
    assert lines(host, "mlx0")[TX] == lines(host, "mlx1")[TX] == "on"
    assert [nic["name"] for nic in done.interfaces] == ["bond0", "mlx0", "mlx1"]
    absent(host, interfaces=("bond0",))
    assert lines(host, "mlx0")[TX] == lines(host, "mlx1")[TX] == "off"


def test_off_through_anything_that_is_stacked(host: FakeHost) -> None:
    host.add("mlx1", "mlx5_core", {TX: "on"})
    host.add_bond("bond0", "active-backup", "layer2", ["mlx1"])
    host.add_vlan("vlan5", "mlx1")
    assert not present(host, interfaces=("vlan5",), tx=False).changed, "the kernel never offloads through it"
    assert present(host, interfaces=("bond0",), tx=False).changed
    assert lines(host, "mlx1")[TX] == "off"


@pytest.mark.parametrize("name", ["intel0", "chel0"])
def test_off_is_never_refused(host: FakeHost, name: str) -> None:
    assert not present(host, interfaces=(name,), tx=False, rx=False, persistent=False).changed
    done = present(host, interfaces=(name,), tx=False, rx=False)
    assert [step.code for step in done.steps] == ([] if name == "intel0" else ["persist", "reload_udev"])


def test_off_where_nothing_matches_is_no_change(host: FakeHost) -> None:
    (host.root / "proc/net/route").write_text("")
    for where in ({"driver": "nfp"}, {"default_route": True}, {"interfaces": ()}):
        assert not present(host, tx=False, **where).changed


@pytest.mark.parametrize(
    ("wish", "code", "words"),
    [
        ({"interfaces": ("mlx9",), "tx": True}, "unknown_interface", "there are: chel0, intel0, mlx0"),
        ({"interfaces": ("../../etc",), "tx": False}, "unknown_interface", "'../../etc'"),
        ({"interfaces": ("mlx0", "lo"), "tx": True}, "unknown_interface", "'lo'"),
        ({"interfaces": ("intel0",), "tx": True}, "nic_no_tls_offload", "cxgb4"),
        ({"driver": "ice", "rx": True}, "nic_no_tls_offload", "Intel E810"),
        ({"driver": "nfp", "tx": True}, "unknown_driver", "mlx0 mlx5_core"),
        ({"interfaces": ("chel0",), "rx": True}, "offload_rx_not_implemented", "mlx5_core, nfp"),
        ({"interfaces": ("mlx0", "chel0"), "rx": True}, "offload_rx_not_implemented", "chel0"),
        ({"tx": True}, "no_target", "default_route"),
    ],
)
def test_refusals(host: FakeHost, wish: dict[str, Any], code: str, words: str) -> None:
    error = refused(host, **wish)
    assert error.code == code and words in error.message


def test_refuses_a_card_without_the_feature(host: FakeHost) -> None:
    host.add("old0", "mlx5_core", {TX: "off fixed", RX: "off fixed"})
    error = refused(host, interfaces=("old0",), tx=True)
    assert error.code == "nic_feature_fixed_off" and "off [fixed]" in error.message


def test_refuses_what_the_kernel_does_not_look_through(host: FakeHost) -> None:
    host.add("mlx1", "mlx5_core")
    host.add_bond("bond0", "active-backup", "layer2", ["mlx1"])
    host.add_bond("bond1", "802.3ad", "layer3+4", [])
    host.add_vlan("vlan5", "mlx1")
    assert refused(host, interfaces=("bond0",), tx=True).code == "bond_no_tls_offload"
    assert refused(host, interfaces=("vlan5",), tx=True).code == "stacked_no_tls_offload"
    assert refused(host, interfaces=("bond1",), tx=True).code == "nic_no_tls_offload"


def test_refuses_without_a_default_route(host: FakeHost) -> None:
    (host.root / "proc/net/route").write_text("")
    assert refused(host, default_route=True, tx=True).code == "no_default_route"


@pytest.mark.parametrize("tx", [True, False])
def test_refuses_without_ethtool(host: FakeHost, tx: bool) -> None:
    host.missing.add("ethtool")
    assert refused(host, interfaces=("mlx0",), tx=tx).code == "ethtool_missing"
    assert not present(host, interfaces=("intel0",), tx=False).changed, "this driver has nothing to switch off"


def test_refuses_to_persist_without_udev(host: FakeHost) -> None:
    host.missing.add("udevadm")
    assert refused(host, interfaces=("mlx0",), tx=True).code == "udev_missing"
    assert present(host, interfaces=("mlx0",), tx=True, persistent=False).changed


def test_rule_is_checked_before_it_is_visible(host: FakeHost) -> None:
    host.rejects_rules = True
    assert refused(host, interfaces=("mlx0",), tx=True).code == "udev_rule_rejected"
    assert list((host.root / "run").iterdir()) == [host.root / "run/ktls-levers.lock"], "left in /run"
    host.udev = "252 (252.39-1~deb12u1)"  # Debian 12: udevadm has no such verb
    assert present(host, interfaces=("mlx0",), tx=True).changed


def test_refuses_a_name_that_udev_would_take_for_a_pattern(host: FakeHost) -> None:
    host.add('a"*', "mlx5_core")
    assert refused(host, interfaces=('a"*',), tx=True).code == "interface_name_unsafe"
    assert present(host, interfaces=('a"*',), tx=True, persistent=False).changed
    absent(host)
    assert lines(host, 'a"*')[TX] == "off"


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "a" * 16, "a b", "a\n", "ä", "$name", "a%k"])
def test_unsafe_names(name: str) -> None:
    with pytest.raises(KtlsError, match="persistent: false"):
        udev_rule.path(name)


def test_refuses_a_link_where_the_rule_shall_be(host: FakeHost) -> None:
    (host.root / RULE).symlink_to("/etc/passwd")
    assert refused(host, interfaces=("mlx0",), tx=True).code == "symlink_in_the_way"


def test_refuses_a_directory_that_everybody_may_write_to(host: FakeHost) -> None:
    (host.root / "etc/udev/rules.d").chmod(0o777)
    assert refused(host, interfaces=("mlx0",), tx=True).code == "unsafe_directory"


def test_refuses_when_the_rule_was_edited(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    assert "overwritten" not in (host.root / RULE).read_text(), "whoever reads that, and edits it, is told the truth"
    (host.root / RULE).write_text("# mine\n")
    host.calls.clear()
    assert refused(host, interfaces=("mlx0",), tx=False).code == "edited_meanwhile"


def undone(host: FakeHost, code: str, **wish: Any) -> KtlsError:
    before = host.snapshot()
    with pytest.raises(KtlsError) as caught:
        present(host, **wish)
    assert caught.value.code == code, caught.value.message
    assert host.snapshot() == before, "not all was put back"
    return caught.value


def test_feature_that_does_not_take_is_undone_everywhere(host: FakeHost) -> None:
    host.add("mlx1", "mlx5_core")
    host.deaf = {RX}
    error = undone(host, "offload_not_effective", driver="mlx5_core", tx=True, rx=True)
    assert "mlx0 did not take tls-hw-rx-offload on" in error.message
    assert originals.levers(str(host.root)) == ()


def test_missing_checksum_offload_is_named(host: FakeHost) -> None:
    host.add("mlx1", "mlx5_core", {CSUM: "off"})
    error = undone(host, "offload_not_effective", interfaces=("mlx1",), tx=True)
    assert "ethtool -K mlx1 tx on" in error.message and "[requested on]" in error.message


def test_udev_that_does_not_run_undoes_all(host: FakeHost) -> None:
    host.reload_rc = 2
    undone(host, "udev_reload_failed", interfaces=("mlx0",), tx=True)


def test_failure_keeps_what_was_set_before(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    host.reload_rc = 2
    undone(host, "udev_reload_failed", interfaces=("mlx0",), tx=False)
    host.reload_rc = 0
    absent(host)
    assert lines(host)[TX] == "off" and not (host.root / RULE).exists()


def test_failed_undoing_is_said_and_the_record_kept(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.reload_rc = 2

    def broken(*_: object) -> None:
        raise KtlsError("write_failed", "disk gone")

    monkeypatch.setattr(lever, "_undo_file", broken)
    with pytest.raises(KtlsError) as caught:
        present(host, interfaces=("mlx0",), tx=True)
    assert caught.value.code == "offload_not_restored" and "disk gone" in caught.value.message
    assert originals.levers(str(host.root)) == ("offload:mlx0",)
    host.reload_rc = 0
    absent(host)
    assert lines(host)[TX] == "off" and not (host.root / RULE).exists()


def test_not_permitted(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    run = host.run

    def unprivileged(argv: Any, stdin: str | None = None) -> Any:
        if argv[1] == "-K":
            return type(run(("ethtool", "-i", "mlx0")))(1, "", "netlink error: Operation not permitted\n")
        return run(argv)

    monkeypatch.setattr(host, "run", unprivileged)
    undone(host, "not_permitted", interfaces=("mlx0",), tx=True)


@pytest.mark.parametrize("place", ["etc/udev/rules.d", "var/lib/ktls-levers"])
def test_disk_that_takes_no_more(host: FakeHost, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """ENOSPC where the record goes stops everything, where the rule goes it undoes the features."""
    real = files._write_new

    def full(path: str, *rest: Any) -> None:
        if f"/{place}/" in path:
            raise OSError(28, "No space left on device")
        real(path, *rest)

    monkeypatch.setattr(files, "_write_new", full)
    error = undone(host, "write_failed", interfaces=("mlx0",), tx=True)
    assert "No space left" in error.message
    changes = [argv for argv in host.calls if argv[:2] == ("ethtool", "-K")]
    assert len(changes) == (0 if place.startswith("var") else 2)
    assert originals.levers(str(host.root)) == ()


def test_read_only_etc_is_found_before_any_change(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = str(host.root / "etc/udev/rules.d")
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == rules and mode == os.W_OK))
    assert refused(host, interfaces=("mlx0",), tx=True).code == "write_failed"


def test_unreadable_record_is_refused(host: FakeHost) -> None:
    host.write("var/lib/ktls-levers/offload:mlx0.json", "{")
    assert refused(host, interfaces=("mlx0",), tx=True).code == "record_unreadable"
    with pytest.raises(KtlsError) as caught:
        absent(host)
    assert caught.value.code == "record_unreadable"


def test_record_of_another_shape_is_refused(host: FakeHost) -> None:
    originals.save(originals.Record("offload:mlx0", {"features": []}), str(host.root))
    assert refused(host, interfaces=("mlx0",), tx=True).code == "record_unreadable"


def test_ethtool_is_called_by_its_real_path(tmp_path: Path) -> None:
    assert udev_rule.find_ethtool(str(tmp_path)) is None
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/ethtool").write_text("")
    assert udev_rule.find_ethtool(str(tmp_path)) is None, "not executable"
    (tmp_path / "sbin/ethtool").chmod(0o755)
    assert udev_rule.find_ethtool(str(tmp_path)) == "/sbin/ethtool"
