# SPDX-License-Identifier: Apache-2.0
"""The fan-out over hosts that are directories of this machine (``ansible_connection: local``): no sshd is needed."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from ktls_control.children import Children
from ktls_control.inventory import Host, host_from_vars
from ktls_control.off import pace
from ktls_control.off.model import OffResult
from ktls_control.off.run import OffRun, continued, switch_off

KTLS_OFF = Path(__file__).resolve().parents[4] / "agent/units/ktls-off"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One root for all: what counts here is how often and how many at a time."""
    for place in ("run/ktls", "var/lib/ktls", "proc/net"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "proc/net/tls_stat").write_text("TlsCurrTxSw 0\nTlsTxSw 1\n")
    monkeypatch.setenv("KTLS_OFF_PREFIX", str(tmp_path))
    return tmp_path


def local(*names: str, **variables: Any) -> list[Host]:
    command = f"sh {KTLS_OFF}"
    return [
        host_from_vars(name, {"ansible_connection": "local", "ktls_off_command": command, **variables})
        for name in names
    ]


def test_one_result_for_each_host_in_their_order(root: Path) -> None:
    said: list[str] = []
    results = switch_off(local("b", "a", "c"), reason="x", progress=lambda result: said.append(result.host))
    assert [result.host for result in results] == ["b", "a", "c"]
    assert sorted(said) == ["a", "b", "c"]
    assert all(result.off and result.by == "kernel" for result in results)


def test_never_more_at_a_time_than_the_pool(root: Path) -> None:
    most = 0
    with OffRun(reason="x", started=time.time(), pool=2) as run:
        run.add(local(*"abcdefg"))
        while run.busy:
            run.step()
            most = max(most, run._pace.holding)
    assert len(run.results) == 7
    assert most <= 2


def test_a_host_that_hangs_is_given_up_and_named(root: Path) -> None:
    (root / "hang").write_text("exec sleep 60\n")
    with OffRun(reason="x", started=time.time(), timeout_s=3.0, pool=1) as run:
        run.add([*local("hangs", ktls_off_command=f"sh {root}/hang"), *local("well")])
        results = {result.host: result for result in run.wait()}
    assert (results["hangs"].code, results["hangs"].error) == ("cut_off", "hangs unreachable: no answer within 3 s")
    assert results["well"].off


def test_where_every_answer_is_late_a_host_that_had_none_is_asked_once_more(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WELL_S", 0.0)
    (root / "first").write_text(f"if mkdir {root}/asked 2>/dev/null; then exec sleep 60; fi\nexec sh {KTLS_OFF}\n")
    (root / "never").write_text(f"mkdir {root}/a$$\nexec sleep 60\n")
    with OffRun(reason="x", started=time.time(), timeout_s=3.0) as run:
        run.add(local("well"))
        run.wait()
        run.add(
            [*local("slow", ktls_off_command=f"sh {root}/first"), *local("dead", ktls_off_command=f"sh {root}/never")]
        )
        results = {result.host: result for result in run.wait()}
    assert results["slow"].off
    assert (results["dead"].code, results["dead"].off) == ("cut_off", False)
    assert len(list(root.glob("a[0-9]*"))) == 2, "asked twice, no more"


def test_a_host_that_comes_late_is_switched_off_and_one_that_moved_is_asked_again(root: Path) -> None:
    with OffRun(reason="x", started=time.time()) as run:
        run.add(local("a"))
        run.step()
        run.add([*local("a"), *local("b")])
        assert len(run.wait()) == 2
        run.add(local("a", ansible_host="192.0.2.9"))
        assert run.busy
        run.wait()
    assert all(result.off for result in run.results.values())


def test_too_many_files_for_now_is_no_failure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Children.start, []

    def start(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments)

    monkeypatch.setattr(Children, "start", start)
    assert all(result.off for result in switch_off(local("a", "b"), reason="x"))
    assert len(calls) == 3


def test_without_ssh_every_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = switch_off([host_from_vars("web1", {})], reason="x")[0]
    assert (result.code, result.error) == (
        "cut_off",
        "web1 unreachable: ssh cannot be run here: No such file or directory",
    )


def test_two_sessions_with_a_host_make_one_result() -> None:
    first = OffResult("a", True, True, True, 1.0, None, 20, None, None, 1.0, "agent", curve=((1.0, 20),))
    second = OffResult("a", True, True, True, 1.0, 9.0, 0, None, 8.0, 6.0, "agent", curve=((6.0, 2), (8.0, 0)))
    both = continued(first, second)
    assert (both.flag_s, both.none_left_s, both.drained_90_s, len(both.curve)) == (1.0, 9.0, 6.0, 3)
    lost = continued(
        first, OffResult("a", False, False, False, None, None, None, "a unreachable: gone", code="cut_off")
    )
    assert (lost.off, lost.left) == (True, 20)
    assert "not reached again" in str(lost.note)
    assert continued(None, second) is second
