# SPDX-License-Identifier: Apache-2.0
"""What a host is told about its phases: each refusal with reason and cure, and nothing claimed that is not so."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import info, openssl_lib
from ktls_host.commands import CommandResult, Runner
from ktls_host.errors import KtlsError
from ktls_host.module_lever import ModuleState
from ktls_host.openssl_lib import OpensslState

if TYPE_CHECKING:
    from pathlib import Path

READY = ModuleState("7.2.12-cloud", loaded=True, builtin=False, loadable=True, refcount=0, ulp_available=True)
OPENSSL = OpensslState("libcrypto.so.3", "OpenSSL 3.5.7 9 Jun 2026", 0x30500070, True)


def codes(items: list[dict[str, str]]) -> list[str]:
    for item in items:
        assert set(item) == {"code", "message", "cure"}
        assert all(value and "\n" not in value for value in item.values())
    return [item["code"] for item in items]


def tx(module: ModuleState, openssl: OpensslState = OPENSSL) -> tuple[str, list[str], list[str]]:
    verdict = info.phases(module, openssl)["tx"]
    return verdict["verdict"], codes(verdict["reasons"]), codes(verdict["notes"])


def test_ready() -> None:
    assert tx(READY) == ("ready", [], [])


@pytest.mark.parametrize(
    ("module", "notes"),
    [
        (replace(READY, loaded=False), ["module_not_loaded"]),
        (replace(READY, loaded=False, builtin=True, loadable=False), []),
        (replace(READY, blacklisted_by=("/etc/modprobe.d/x.conf",)), ["module_blacklisted"]),
        (replace(READY, kernel="6.14.0"), ["evidence_needs_net_admin"]),
        (replace(READY, kernel="6.12.1"), ["no_rekey", "evidence_needs_net_admin"]),
        (replace(READY, kernel="6.1.0-50-cloud-amd64"), ["no_rekey", "evidence_needs_net_admin"]),
    ],
)
def test_ready_with_a_warning(module: ModuleState, notes: list[str]) -> None:
    assert tx(module) == ("ready", [], notes)


@pytest.mark.parametrize(
    ("module", "openssl", "verdict", "reasons"),
    [
        (replace(READY, loaded=False, loadable=False), OPENSSL, "refused", ["tls_module_missing"]),
        (
            replace(READY, loaded=False, loadable=False, blocked_by=("/proc/cmdline",)),
            OPENSSL,
            "refused",
            ["module_blocked"],
        ),
        (READY, OpensslState(), "refused", ["openssl_missing"]),
        (READY, OpensslState("libcrypto.so.1.1", "OpenSSL 1.1.1w", 0x1010117F), "refused", ["openssl_too_old"]),
        (READY, replace(OPENSSL, ktls_built=False), "refused", ["openssl_without_ktls"]),
        (READY, replace(OPENSSL, ktls_built=None), "unknown", ["openssl_ktls_unknown"]),
        (
            replace(READY, loaded=False, loadable=False),
            replace(OPENSSL, ktls_built=False),
            "refused",
            ["openssl_without_ktls", "tls_module_missing"],
        ),
        (
            replace(READY, loaded=False, loadable=False),
            replace(OPENSSL, ktls_built=None),
            "refused",
            ["tls_module_missing"],
        ),
    ],
)
def test_refused(module: ModuleState, openssl: OpensslState, verdict: str, reasons: list[str]) -> None:
    assert tx(module, openssl)[:2] == (verdict, reasons)


def test_userspace_needs_no_module_but_an_openssl() -> None:
    none = replace(READY, loaded=False, loadable=False)
    assert info.phases(none, OPENSSL)["userspace"]["verdict"] == "ready"
    assert info.phases(READY, replace(OPENSSL, ktls_built=False))["userspace"]["verdict"] == "ready"
    assert codes(info.phases(READY, OpensslState())["userspace"]["reasons"]) == ["openssl_missing"]


@pytest.mark.parametrize("phase", ["rx", "hw"])
def test_later_phases_are_refused_by_name(phase: str) -> None:
    verdict = info.phases(READY, OPENSSL)[phase]
    assert (verdict["verdict"], codes(verdict["reasons"])) == ("refused", ["phase_not_in_this_release"])
    assert phase in verdict["reasons"][0]["message"]


def test_every_phase_has_a_verdict() -> None:
    assert tuple(info.phases(READY, OPENSSL)) == info.PHASES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('NAME="Debian"\nID=debian\nVERSION_ID="13"\n', ("debian", "13")),
        ("ID='rhel'\nVERSION_ID='9.6'\n", ("rhel", "9.6")),
        ("VARIANT_ID=cloud\n", (None, None)),
        ("", (None, None)),
    ],
)
def test_distribution(text: str, expected: tuple[str | None, str | None]) -> None:
    found = info.distribution(text)
    assert (found["id"], found["version_id"]) == expected


@given(st.text())
def test_text_parsers_never_raise(text: str) -> None:
    info.distribution(text)
    info.kernel_version(text)


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.12.117+deb13-cloud-amd64", (6, 12)), ("7.2", (7, 2)), ("next-20250101", (0, 0)), ("6", (0, 0))],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert info.kernel_version(release) == version


class NoProgram(Runner):
    """A host without the openssl program."""

    def run(self, argv: Any, stdin: str | None = None) -> CommandResult:
        """Fail as the real runner does."""
        raise KtlsError("command_missing", argv[0])


def test_collect_under_a_root(tmp_path: Path) -> None:
    for path, text in {
        "etc/os-release": "ID=debian\nVERSION_ID=13\n",
        "proc/sys/kernel/osrelease": "6.12.1-test\n",
        "proc/modules": "tls 139264 1 - Live 0x0\n",
        "proc/sys/net/ipv4/tcp_available_ulp": "mptcp tls\n",
        "proc/net/tls_stat": "TlsCurrTxSw 1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = info.collect(str(tmp_path), NoProgram())
    assert json.loads(json.dumps(found)) == found, "plain JSON types only"
    assert found["kernel"] == "6.12.1-test"
    assert found["distribution"] == {"id": "debian", "version_id": "13"}
    assert found["tcp_available_ulp"] == ["mptcp", "tls"]
    assert found["tls_stat"] == {"TlsCurrTxSw": 1}
    assert found["tls_module"]["refcount"] == 1
    assert found["openssl"]["program"] is None
    assert found["openssl"]["version"] == openssl_lib.probe().version
    assert set(found["phases"]) == set(info.PHASES)


def test_library_is_read_as_the_program_reads_it() -> None:
    """libcrypto's own word against that of `openssl version`, which prints its library's in parentheses."""
    program = shutil.which("openssl")
    assert program is not None
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout
    state = openssl_lib.probe()
    assert state.version is not None and f"(Library: {state.version})" in said
    major, minor = (int(part) for part in state.version.split()[1].split(".")[:2])
    assert state.release == (major, minor)


def test_ktls_build_is_read_from_the_library() -> None:
    """Debian builds OpenSSL with enable-ktls; the flag is read back the same way each time."""
    assert [openssl_lib.probe().ktls_built for _ in range(3)] == [True] * 3


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl_lib, "_LIBRARIES", ("libcrypto-that-is-not-there.so.9",))
    assert openssl_lib.probe() == OpensslState()
    assert OpensslState().release == (0, 0)
