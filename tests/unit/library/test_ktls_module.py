# SPDX-License-Identifier: Apache-2.0
"""ktls_module against a directory that plays a host: check mode tells what the real run then does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import module_lever
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.commands import CommandResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

KERNEL = "6.12.1-test"
PERSIST = "etc/modules-load.d/ktls-fleet.conf"


class Host:
    """Files under a root, and a modprobe that acts on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.deaf = False
        self.write("proc/sys/kernel/osrelease", f"{KERNEL}\n")
        self.write("proc/modules", "")
        self.write("proc/sys/net/ipv4/tcp_available_ulp", "mptcp\n")
        self.write(f"lib/modules/{KERNEL}/modules.dep", "kernel/net/tls/tls.ko.xz:\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def load(self, refcount: int) -> None:
        self.write("proc/modules", f"tls 139264 {refcount} - Live 0x0\n")
        self.write("proc/sys/net/ipv4/tcp_available_ulp", "mptcp tls\n")

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        if self.deaf:
            return CommandResult(0, "", "")
        if tuple(argv) == ("modprobe", "tls"):
            self.load(0)
        else:
            self.write("proc/modules", "")
            self.write("proc/sys/net/ipv4/tcp_available_ulp", "mptcp\n")
        return CommandResult(0, "", "")

    def snapshot(self) -> dict[str, str]:
        return {str(path): path.read_text() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Point the module's default root and runner at a directory."""
    played = Host(tmp_path)
    probe, apply = module_lever.probe, module_lever.apply

    def apply_there(steps: Iterable[Any], runner: Any = None, root: str = "/") -> None:
        apply(steps, played, str(tmp_path))

    monkeypatch.setattr(module_lever, "probe", lambda root="/": probe(str(tmp_path)))
    monkeypatch.setattr(module_lever, "apply", apply_there)
    return played


@pytest.mark.parametrize("loaded", [None, True, False])
@pytest.mark.parametrize("persistent", [None, True, False])
@pytest.mark.parametrize("start", ["bare", "loaded", "persisted", "foreign"])
def test_check_mode_tells_the_truth(
    host: Host,
    run: Callable[..., dict[str, Any]],
    loaded: bool | None,
    persistent: bool | None,
    start: str,
) -> None:
    if loaded is None and persistent is None:
        return
    if start != "bare":
        host.load(0)
    if start == "persisted":
        run("ktls_module", persistent=True)
    if start == "foreign":
        host.write(PERSIST, "# by hand\ntls\n")
    wish = {key: value for key, value in (("loaded", loaded), ("persistent", persistent)) if value is not None}
    before = host.snapshot()
    predicted = run("ktls_module", _check=True, **wish)
    assert host.snapshot() == before, "check mode wrote something"
    real = run("ktls_module", **wish)
    again = run("ktls_module", **wish)
    for key in ("changed", "steps", "diff"):
        assert predicted[key] == real[key], key
    assert (host.snapshot() != before) == real["changed"]
    assert (again["changed"], again["steps"]) == (False, [])
    assert again["diff"]["before"] == again["diff"]["after"] == real["diff"]["after"]


def test_result_says_what_is_there(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    result = run("ktls_module", loaded=True, persistent=True)
    assert [step["code"] for step in result["steps"]] == ["load", "persist"]
    assert result["tls_module"]["loaded"] is True
    assert result["tls_module"]["persisted"] == (host.root / PERSIST).read_text()
    assert result["diff"]["before"].startswith("loaded: false\n")
    assert result["diff"]["after"].startswith("loaded: true\n")


@pytest.mark.parametrize("check", [True, False])
def test_unload_is_refused_while_in_use(host: Host, run: Callable[..., dict[str, Any]], check: bool) -> None:
    host.load(3)
    host.write("proc/net/tls_stat", "TlsCurrTxSw\t3\n")
    host.write(PERSIST, module_lever.PERSIST_TEXT)
    before = host.snapshot()
    result = run("ktls_module", _check=check, loaded=False, persistent=False)
    assert result["error_code"] == "module_in_use"
    assert "3 references" in result["msg"] and "TlsCurrTxSw=3" in result["msg"]
    assert host.snapshot() == before


@pytest.mark.parametrize("check", [True, False])
def test_missing_module_is_refused(host: Host, run: Callable[..., dict[str, Any]], check: bool) -> None:
    host.write(f"lib/modules/{KERNEL}/modules.dep", "")
    assert run("ktls_module", _check=check, loaded=True)["error_code"] == "tls_module_missing"


def test_modprobe_that_lies_is_found_out(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    host.deaf = True
    assert run("ktls_module", loaded=True)["error_code"] == "not_effective"


def test_nothing_asked_is_an_error(run: Callable[..., dict[str, Any]], host: Host) -> None:
    with pytest.raises(KeyError, match="error_code"):
        run("ktls_module")
