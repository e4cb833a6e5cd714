# SPDX-License-Identifier: Apache-2.0
"""The process is killed before each single thing that it does: afterwards both directions work and converge."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host.nic import lever, restore
from ktls_host.nic.targets import DesiredOffload

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import RX, TX, FakeHost
else:
    from fakenic import RX, TX, FakeHost

RULE = "etc/udev/rules.d/90-ktls-fleet-offload-mlx0.rules"
WISH = DesiredOffload(driver="mlx5_core", tx=True, rx=True)
OTHER = DesiredOffload(interfaces=("mlx0",), tx=False, persistent=False)
_KILLED = 77
_CALLS = ("rename", "fsync", "unlink", "open", "rmdir", "fchmod")


def present(host: FakeHost, desired: DesiredOffload = WISH) -> None:
    lever.present(desired, root=str(host.root), runner=host)  # type: ignore[arg-type]


def absent(host: FakeHost) -> None:
    restore.absent(DesiredOffload(), root=str(host.root), runner=host)  # type: ignore[arg-type]


def killed_at(host: FakeHost, number: int, action: Callable[[], None]) -> bool:
    """Run ``action`` in a child that dies right before its ``number``-th call into the system; False when it ends."""
    child = os.fork()
    if child == 0:
        left = [number]

        def count(*_: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os._exit(_KILLED)

        for name in _CALLS:
            real = getattr(os, name)

            def counted(*args: Any, _real: Any = real, **options: Any) -> Any:
                count()
                return _real(*args, **options)

            setattr(os, name, counted)
        host.before_call = count
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, _KILLED), "the action itself failed"
    return status == _KILLED


def without_records(snapshot: dict[str, str]) -> dict[str, str]:
    """Leave temporary files and records out: what a killed process leaves there harms nobody."""
    return {path: text for path, text in snapshot.items() if "/." not in path and not path.startswith("var/")}


def scene(host: FakeHost, start: str) -> dict[str, str]:
    host.add("mlx1", "mlx5_core", {TX: "on"})
    before = without_records(host.snapshot())
    if start == "changed before":
        present(host, OTHER)
        present(host, DesiredOffload(interfaces=("mlx1",), tx=False))
    return before


def every_kill(host: FakeHost, action: Callable[[], None], reset: Callable[[], None]) -> int:
    """Return how many places there are; the host is checked at each of them."""
    number = 1
    while killed_at(host, number, action):
        reset()
        number += 1
    return number - 1


@pytest.mark.parametrize("start", ["bare", "changed before"])
def test_present_killed_then_absent(host: FakeHost, start: str) -> None:
    before = scene(host, start)

    def check() -> None:
        absent(host)
        assert without_records(host.snapshot()) == before
        if start == "changed before":
            present(host, OTHER)
            present(host, DesiredOffload(interfaces=("mlx1",), tx=False))

    assert every_kill(host, lambda: present(host), check) > 30


@pytest.mark.parametrize("start", ["bare", "changed before"])
def test_present_killed_then_present(host: FakeHost, start: str) -> None:
    before = scene(host, start)

    def check() -> None:
        present(host)
        for name in ("mlx0", "mlx1"):
            assert f"{TX}: on" in host.features(name) and f"{RX}: on" in host.features(name)
            assert (host.root / RULE.replace("mlx0", name)).exists()
        absent(host)
        assert without_records(host.snapshot()) == before

    assert every_kill(host, lambda: present(host), check) > 30


@pytest.mark.parametrize("then", ["absent", "present"])
def test_absent_killed(host: FakeHost, then: str) -> None:
    before = scene(host, "bare")
    present(host)

    def check() -> None:
        if then == "present":
            present(host)
            assert f"{TX}: on" in host.features("mlx0") and (host.root / RULE).exists()
        absent(host)
        assert without_records(host.snapshot()) == before
        present(host)

    assert every_kill(host, lambda: absent(host), check) > 15


def test_feature_changed_along_by_a_killed_run_is_taken_back(host: FakeHost) -> None:
    """The process dies after ethtool changed more than was asked for, and before it could write that down."""
    before = without_records(host.snapshot())
    run = host.run

    def along(argv: Any, stdin: str | None = None) -> Any:
        if argv[1] == "-K" and TX in argv:
            run(argv)
            run(("ethtool", "-K", "mlx0", "rx-gro-list", "on"))
            os._exit(_KILLED)
        return run(argv)

    child = os.fork()
    if child == 0:
        host.run = along  # type: ignore[method-assign]
        present(host, DesiredOffload(interfaces=("mlx0",), tx=True))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _KILLED
    assert "rx-gro-list: on" in host.features("mlx0")
    absent(host)
    assert without_records(host.snapshot()) == before
