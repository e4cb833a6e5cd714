# SPDX-License-Identifier: Apache-2.0
"""ktls_module against a directory that plays a host: check mode tells what the real run then does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import module_lever, originals
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.commands import CommandResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
        """Return what a host shows; our own record and lock are not part of it."""
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path): path.read_text() for path in files if "ktls-levers" not in str(path)}

    @property
    def records(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("var/lib/ktls-levers/*"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reroot: Callable[[Any, str], None]) -> Host:
    """Point the module's default root and runner at a directory."""
    played = Host(tmp_path)
    reroot(module_lever, str(tmp_path))
    reroot(originals, str(tmp_path))
    apply = module_lever.apply
    monkeypatch.setattr(module_lever, "apply", lambda steps, runner=None, root="/": apply(steps, played, root))
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


@pytest.mark.parametrize("start", ["bare", "loaded", "foreign"])
def test_absent_puts_the_first_state_back(host: Host, run: Callable[..., dict[str, Any]], start: str) -> None:
    if start == "loaded":
        host.load(0)
    if start == "foreign":
        host.write(PERSIST, "# by hand\ntls\n")
        (host.root / PERSIST).chmod(0o640)
    before = host.snapshot()
    run("ktls_module", loaded=True, persistent=True)
    run("ktls_module", loaded=False)
    run("ktls_module", persistent=False)
    run("ktls_module", loaded=True, persistent=True)
    assert host.records == ["module.json"]
    predicted = run("ktls_module", state="absent", _check=True)
    real = run("ktls_module", state="absent")
    for key in ("changed", "steps", "diff"):
        assert predicted[key] == real[key], key
    assert real["changed"] and host.snapshot() == before and host.records == []
    if start == "foreign":
        assert (host.root / PERSIST).stat().st_mode & 0o777 == 0o640
    again = run("ktls_module", state="absent")
    assert (again["changed"], again["steps"]) == (False, [])


def test_absent_without_a_record_changes_nothing(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    host.load(0)
    host.write(PERSIST, "# by hand\ntls\n")
    before = host.snapshot()
    assert run("ktls_module", state="absent")["changed"] is False
    assert host.snapshot() == before


@pytest.mark.parametrize("check", [True, False])
def test_an_edited_boot_file_is_left_alone_and_named(
    host: Host, run: Callable[..., dict[str, Any]], check: bool
) -> None:
    run("ktls_module", loaded=True, persistent=True)
    assert "overwritten" not in (host.root / PERSIST).read_text(), "whoever reads that, and edits it, is told the truth"
    host.write(PERSIST, "# mine now\n")
    refused = run("ktls_module", loaded=True, persistent=True, _check=check)
    assert refused["error_code"] == "edited_meanwhile" and PERSIST in refused["msg"]
    failed = run("ktls_module", state="absent", _check=check)
    assert failed["error_code"] == "edited_meanwhile" and PERSIST in failed["msg"]
    assert (host.root / PERSIST).read_text() == "# mine now\n"
    kept = run("ktls_module", state="absent", edited="keep", _check=check)
    assert not kept.get("failed")
    assert (host.root / PERSIST).read_text() == "# mine now\n"
    assert host.records == (["module.json"] if check else [])


def test_restoring_does_not_unload_what_is_used(host: Host, run: Callable[..., dict[str, Any]]) -> None:
    run("ktls_module", loaded=True, persistent=True)
    host.load(2)
    before = host.snapshot()
    assert run("ktls_module", state="absent")["error_code"] == "module_in_use"
    assert host.snapshot() == before and host.records == ["module.json"]
