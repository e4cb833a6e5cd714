# SPDX-License-Identifier: Apache-2.0
"""The offload lever taken back: byte-identical where it was ours, untouched where it was not."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktls_host import originals
from ktls_host.errors import KtlsError
from ktls_host.nic import lever, restore
from ktls_host.nic.outcome import Outcome
from ktls_host.nic.targets import DesiredOffload

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import CSUM, RX, TSO, TX, FakeHost
else:
    from fakenic import CSUM, RX, TSO, TX, FakeHost

RULE = "etc/udev/rules.d/90-ktls-fleet-offload-mlx0.rules"
GRO = "rx-gro-list"


def present(host: FakeHost, **wish: Any) -> Outcome:
    return lever.present(DesiredOffload(**wish), root=str(host.root), runner=host)  # type: ignore[arg-type]


def absent(host: FakeHost, *, check: bool = False, keep: bool = False, **wish: Any) -> Outcome:
    desired = DesiredOffload(**wish)
    return restore.absent(desired, keep_edited=keep, check=check, root=str(host.root), runner=host)  # type: ignore[arg-type]


def test_there_and_back_is_byte_identical(host: FakeHost) -> None:
    before = host.snapshot()
    present(host, driver="mlx5_core", tx=True, rx=True)
    present(host, interfaces=("chel0",), tx=True, persistent=False)
    changed = host.snapshot()
    predicted = absent(host, check=True)
    assert host.snapshot() == changed, "check mode wrote something"
    done = absent(host)
    assert (predicted.steps, predicted.diff) == (done.steps, done.diff)
    assert [step.code for step in done.steps] == ["restore_file", "reload_udev", "restore_features", "restore_features"]
    assert host.snapshot() == before
    assert originals.levers(str(host.root)) == ()
    assert not absent(host).changed


@pytest.mark.parametrize("state", ["on", "off"])
@pytest.mark.parametrize("csum", ["on", "off"])
def test_what_was_requested_comes_back_too(host: FakeHost, state: str, csum: str) -> None:
    host.add("mlx1", "mlx5_core", {TX: state, RX: state, CSUM: csum})
    before = host.snapshot()
    present(host, interfaces=("mlx1",), tx=False, rx=state == "off")
    absent(host)
    assert host.snapshot() == before


def test_first_state_is_the_original(host: FakeHost) -> None:
    before = host.snapshot()
    for tx in (True, False, True):
        present(host, interfaces=("mlx0",), tx=tx)
    assert absent(host).changed
    assert host.snapshot() == before


def test_what_changed_along_comes_back(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver requests another feature on its own: no card at hand does, so the played one is made to."""
    before, run = host.snapshot(), host.run

    def along(argv: Any, stdin: str | None = None) -> Any:
        if argv[1] == "-K" and TX in argv:
            run(("ethtool", "-K", "mlx0", GRO, argv[argv.index(TX) + 1]))
        return run(argv)

    monkeypatch.setattr(host, "run", along)
    done = present(host, interfaces=("mlx0",), tx=True)
    assert {(one["feature"], one["asked"]) for one in done.changed_features} == {(TX, True), (GRO, False)}
    monkeypatch.setattr(host, "run", run)
    assert absent(host).left_alone == ()
    assert host.snapshot() == before


def test_hand_made_change_is_left_alone_and_reported(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    host.request("mlx0", GRO, True)
    host.request("mlx0", TSO, False)
    predicted, done = absent(host, check=True), absent(host)
    assert predicted.left_alone == done.left_alone
    assert [(one["what"], one["now"], one["recorded"]) for one in done.left_alone] == [
        (f"mlx0 {GRO}", "on", "off"),
        (f"mlx0 {TSO}", "off", "on"),
    ]
    text = host.features("mlx0")
    assert f"{GRO}: on" in text and f"{TSO}: off" in text and f"{TX}: off" in text


def test_edited_rule_is_refused_or_kept(host: FakeHost) -> None:
    present(host, interfaces=("mlx0", "chel0"), tx=True)
    (host.root / RULE).write_text("# mine\n")
    before = host.snapshot()
    for check in (True, False):
        with pytest.raises(KtlsError) as caught:
            absent(host, check=check)
        assert caught.value.code == "edited_meanwhile" and RULE in caught.value.message
        assert host.snapshot() == before, "nothing may change, not even the other card"
    done = absent(host, keep=True)
    assert (host.root / RULE).read_text() == "# mine\n"
    assert f"{TX}: off" in host.features("mlx0") and f"{TX}: off" in host.features("chel0")
    assert [one["what"] for one in done.left_alone] == [f"/{RULE}"]
    assert originals.levers(str(host.root)) == ()


def test_foreign_rule_in_our_place_comes_back(host: FakeHost) -> None:
    host.write(RULE, "# by hand, before us\n")
    (host.root / RULE).chmod(0o600)
    before = host.snapshot()
    present(host, interfaces=("mlx0",), tx=True)
    assert "before us" not in (host.root / RULE).read_text()
    absent(host)
    assert host.snapshot() == before


def test_only_the_named_interfaces(host: FakeHost) -> None:
    present(host, interfaces=("mlx0", "chel0"), tx=True)
    assert not absent(host, interfaces=()).changed
    assert not absent(host, interfaces=("nowhere",)).changed
    assert not absent(host, driver="ice").changed
    absent(host, driver="cxgb4")
    assert f"{TX}: off" in host.features("chel0") and f"{TX}: on" in host.features("mlx0")
    absent(host, default_route=True)
    assert f"{TX}: off" in host.features("mlx0")


def test_interface_that_is_gone(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    host.remove("mlx0")
    done = absent(host)
    assert not (host.root / RULE).exists() and originals.levers(str(host.root)) == ()
    assert [(one["what"], one["now"]) for one in done.left_alone] == [("mlx0", "gone")]


def test_another_card_under_the_same_name(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    host.remove("mlx0")
    host.add("mlx0", "nfp", {TX: "on", RX: "on", TSO: "off"})
    features = host.features("mlx0")
    done = absent(host)
    assert host.features("mlx0") == features and not (host.root / RULE).exists()
    assert "mlx5_core" in done.left_alone[0]["why"]


def test_link_that_came_back_with_the_drivers_defaults(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    host.remove("mlx0")
    host.add("mlx0", "mlx5_core", {TX: "on"})  # as the rule would have made it
    absent(host)
    assert f"{TX}: off" in host.features("mlx0")


def test_without_ethtool_nothing_is_taken_back(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    before = host.snapshot()
    host.missing.add("ethtool")
    with pytest.raises(KtlsError) as caught:
        absent(host)
    assert caught.value.code == "ethtool_missing"
    host.missing.clear()
    assert host.snapshot() == before


def test_feature_that_does_not_go_back_is_said(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    run = host.run
    refusal = type(run(("ethtool", "-i", "mlx0")))(1, "", "busy\n")
    monkeypatch.setattr(host, "run", lambda argv, stdin=None: refusal if argv[1] == "-K" else run(argv))
    with pytest.raises(KtlsError) as caught:
        absent(host)
    assert caught.value.code == "offload_not_restored" and "busy" in caught.value.message
    monkeypatch.setattr(host, "run", run)
    assert absent(host).changed
    assert f"{TX}: off" in host.features("mlx0")


def test_works_without_udev_once_there_is_no_rule(host: FakeHost) -> None:
    present(host, interfaces=("mlx0",), tx=True)
    host.missing.add("udevadm")
    absent(host)
    assert not (host.root / RULE).exists()


class _NotEffective(Exception):  # noqa: N818 - the one refusal that any of these wishes may meet
    pass


def _wish(host: FakeHost, start: dict[str, str], **wish: Any) -> None:
    try:
        present(host, interfaces=("any0",), **wish)
    except KtlsError as error:
        assert error.code == "offload_not_effective" and start[CSUM] == "off"
        raise _NotEffective from error


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.fixed_dictionaries({name: st.sampled_from(["on", "off"]) for name in (TX, RX, CSUM, TSO, GRO)}),
    wishes=st.lists(
        st.tuples(st.sampled_from([True, False, None]), st.sampled_from([True, False, None]), st.booleans()), max_size=4
    ),
)
def test_any_history_is_taken_back(host: FakeHost, start: dict[str, str], wishes: list[Any]) -> None:
    """Whatever was asked for, in whatever order, done or refused: absent gives back the first state."""
    if (host.root / "sys/class/net/any0").exists():
        host.remove("any0")
    host.add("any0", "mlx5_core", start)
    before = host.snapshot()
    for tx, rx, persistent in wishes:
        with contextlib.suppress(_NotEffective):
            _wish(host, start, tx=tx, rx=rx, persistent=persistent)
    absent(host)
    assert host.snapshot() == before


def _hold(root: str) -> None:
    with originals.lock(root):
        time.sleep(1.0)


def test_one_at_a_time(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that finds another one waits; one that waits too long says who is at it and changes nothing."""
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(str(host.root),))
    other.start()
    try:
        while (
            not (host.root / "run/ktls-levers.lock").exists()
            or not (host.root / "run/ktls-levers.lock").read_text().strip()
        ):
            time.sleep(0.01)
        before = host.snapshot()
        real = originals.lock
        monkeypatch.setattr(originals, "lock", lambda root: real(root, 0.1))
        calls: list[Callable[[], Outcome]] = [
            lambda: present(host, interfaces=("mlx0",), tx=True),
            lambda: absent(host),
        ]
        for call in calls:
            with pytest.raises(KtlsError) as caught:
                call()
            assert caught.value.code == "levers_busy" and str(other.pid) in caught.value.message
        assert host.snapshot() == before and not host.calls
        monkeypatch.setattr(originals, "lock", real)
        assert present(host, interfaces=("mlx0",), tx=True).changed
    finally:
        other.join()
