# SPDX-License-Identifier: Apache-2.0
"""Everything about a host in one answer: what is read, what is tried, and that the host is afterwards as it was."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import info, isolated, openssl_lib, originals, ulp_probe
from ktls_host.commands import CommandResult, Runner
from ktls_host.errors import KtlsError
from ktls_host.openssl_lib import OpensslState
from ktls_host.proof import openssl as proof
from ktls_host.proof.openssl import Proof
from ktls_host.ulp_probe import UlpState

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

KERNEL = "6.12.1-test"
OPENSSL = OpensslState("libcrypto.so.3", "OpenSSL 3.5.7 9 Jun 2026", 0x30500070, True)


@dataclass
class Host(Runner):
    """A host below a directory, whose modprobe works; it notes what was asked of it, and in which order."""

    place: Path
    others: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, CommandResult | KtlsError] = field(default_factory=dict)
    loads: tuple[str, ...] = ("tls",)
    modules: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write what such a kernel has."""
        self.put("proc/sys/kernel/osrelease", f"{KERNEL}\n")
        dependencies = "kernel/net/tls/tls.ko:\nkernel/crypto/ccm.ko:\nkernel/lib/crypto/libchacha.ko:\n"
        dependencies += "kernel/drivers/crypto/qat.ko:\nkernel/net/other.ko:\n"
        self.put(f"lib/modules/{KERNEL}/modules.dep", dependencies)
        self.put(f"lib/modules/{os.uname().release}/modules.dep", dependencies)
        self.write()

    def put(self, path: str, text: str) -> None:
        """Write a file below the host's root."""
        target = self.place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def write(self) -> None:
        """Write /proc/modules."""
        lines = [f"{name} 16384 {users} - Live 0x0\n" for name, users in self.modules.items()]
        self.put("proc/modules", "".join(lines))
        self.put("proc/sys/net/ipv4/tcp_available_ulp", "mptcp tls\n" if "tls" in self.modules else "mptcp\n")

    def load(self, *names: str) -> None:
        """Have modules loaded, nobody using them."""
        self.modules.update(dict.fromkeys(names, 0))
        self.write()

    def run(self, argv: Any, stdin: str | None = None) -> CommandResult:
        """Play the program."""
        command = " ".join(argv)
        self.asked.append(command)
        answer = self.answers.get(command, self.answers.get(argv[0]))
        if isinstance(answer, KtlsError):
            raise answer
        if answer is not None:
            return answer
        if argv[0] != "modprobe":
            raise KtlsError("command_missing", argv[0])
        if argv[1] != "-r":
            self.load(*[name for name in self.loads if name not in self.modules])
            return CommandResult(0, "", "")
        for name in argv[2:]:
            if self.modules.get(name):
                return CommandResult(1, "", f"modprobe: FATAL: Module {name} is in use.")
        for name in argv[2:]:
            self.modules.pop(name, None)
        self.write()
        return CommandResult(0, "", "")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a host with the module on disk and not loaded."""
    return Host(tmp_path)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, host: Host) -> list[str]:
    """Play the trial, and note whether the module was there for it."""
    seen: list[str] = []

    def note(name: str) -> Callable[[bool], Any]:
        def probe(ulp_available: bool) -> Any:
            if ulp_available:
                seen.append(f"{name} {'with' if 'tls' in host.modules else 'without'} module")
            if name == "ulp":
                return UlpState(ulp_available, None if ulp_available else "module tls is not loaded")
            return Proof(ulp_available, None if ulp_available else "module tls is not loaded", "OpenSSL 3.5.7")

        return probe

    monkeypatch.setattr(ulp_probe, "probe", note("ulp"))
    monkeypatch.setattr(proof, "probe", note("proof"))
    monkeypatch.setattr(openssl_lib, "probe", lambda: OPENSSL)
    monkeypatch.setattr(info, "_POLL_S", 0.01)
    return seen


def collect(host: Host, *, load_module: bool = False) -> dict[str, Any]:
    found = info.collect(str(host.place), host, load_module=load_module)
    assert json.loads(json.dumps(found)) == found, "plain JSON types only"
    return found


BOTH = ["ulp with module", "proof with module"]


# What is read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('NAME="Debian"\nID=debian\nVERSION_ID="13"\n', ("debian", "13")),
        ("ID='rhel'\nVERSION_ID='9.6'\n", ("rhel", "9.6")),
        ("VARIANT_ID=cloud\nXID=x\n", (None, None)),
        ("ID=arch\n", ("arch", None)),
        ("", (None, None)),
    ],
)
def test_distribution(text: str, expected: tuple[str | None, str | None]) -> None:
    found = info.distribution(text)
    assert (found["id"], found["version_id"]) == expected


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("debian12", ("debian", "12")),
        ("debian13", ("debian", "13")),
        ("debian13-backports", ("debian", "13")),
        ("rhel9", ("rhel", "9.6")),
        ("fedora", ("fedora", "42")),
        ("ubuntu2404", ("ubuntu", "24.04")),
    ],
)
def test_each_system(tmp_path: Path, system: str, expected: tuple[str, str]) -> None:
    root = systems.tree(system, tmp_path)
    found = info.distribution(info._os_release(root))
    assert (found["id"], found["version_id"]) == expected


def test_os_release_in_its_other_place(tmp_path: Path) -> None:
    root = systems.tree("fedora", tmp_path)
    (Path(root) / "etc/os-release").unlink()
    assert info.distribution(info._os_release(root))["id"] == "fedora"


@given(st.text())
def test_distribution_never_raises(text: str) -> None:
    assert set(info.distribution(text)) == {"id", "version_id"}


def test_what_is_read_below_a_root(host: Host, tried: list[str]) -> None:
    host.put("etc/os-release", "ID=debian\nVERSION_ID=13\n")
    host.put("proc/net/tls_stat", "TlsCurrTxSw 1\n")
    host.put(f"boot/config-{KERNEL}", "CONFIG_TLS=m\n")
    host.put("etc/crypto-policies/config", "DEFAULT\n")
    host.modules["tls"] = 1
    host.write()
    found = collect(host)
    assert found["kernel"] == KERNEL
    assert found["distribution"] == {"id": "debian", "version_id": "13"}
    assert found["tcp_available_ulp"] == ["mptcp", "tls"]
    assert found["tls_stat"] == {"TlsCurrTxSw": 1}
    assert found["tls_module"]["refcount"] == 1
    assert found["kernel_config"]["source"] == f"/boot/config-{KERNEL}"
    assert found["policy"]["policy"] == "DEFAULT"
    assert found["openssl"]["program"] is None
    assert found["openssl"]["version"] == OPENSSL.version
    assert tuple(found["phases"]) == info.PHASES


def test_a_bare_directory(tmp_path: Path, tried: list[str]) -> None:
    """A host that has none of the files is described all the same."""
    found = info.collect(str(tmp_path / "empty"), Host(tmp_path))
    assert found["kernel"] == os.uname().release
    assert (found["tcp_available_ulp"], found["tls_stat"], found["datapaths"]) == ([], None, [])
    assert found["phases"]["tx"]["verdict"] == "refused"


@pytest.mark.parametrize("answer", [KtlsError("command_missing", "x"), CommandResult(1, "", "broken")])
def test_no_openssl_program(host: Host, tried: list[str], answer: CommandResult | KtlsError) -> None:
    host.answers["openssl"] = answer
    assert collect(host)["openssl"]["program"] is None


def test_the_openssl_program_may_be_another(host: Host, tried: list[str]) -> None:
    host.answers["openssl"] = CommandResult(0, "OpenSSL 1.1.1w  11 Sep 2023\n", "")
    openssl = collect(host)["openssl"]
    assert (openssl["program"], openssl["version"]) == ("OpenSSL 1.1.1w  11 Sep 2023", OPENSSL.version)


# What is tried, and what is left of it


def test_reading_loads_nothing(host: Host, tried: list[str]) -> None:
    found = collect(host)
    assert found["trial"] == {"loaded_module": False, "left_loaded": False, "why": None}
    assert tried == [] and not [command for command in host.asked if "modprobe" in command]
    assert found["phases"]["tx"]["reasons"][0]["code"] == "not_proved"


def test_a_module_that_is_loaded_is_used_and_stays(host: Host, tried: list[str]) -> None:
    host.load("tls")
    for load_module in (False, True):
        found = collect(host, load_module=load_module)
        assert found["trial"] == {"loaded_module": False, "left_loaded": False, "why": None}
    assert tried == BOTH * 2 and host.modules == {"tls": 0}
    assert not [command for command in host.asked if command.startswith("modprobe -r tls")]


def test_the_module_is_loaded_for_the_trial_alone(host: Host, tried: list[str]) -> None:
    found = collect(host, load_module=True)
    assert found["trial"] == {"loaded_module": True, "left_loaded": False, "why": None}
    assert tried == BOTH and host.modules == {}
    assert [command for command in host.asked if "tls" in command] == ["modprobe tls", "modprobe -r tls"]
    assert found["tls_module"]["loaded"] is False and found["tcp_available_ulp"] == ["mptcp"], "as it was before"


def test_somebody_who_came_meanwhile_keeps_it(host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "_UNLOAD_WAIT_S", 0.05)
    real = proof.probe

    def probe(ulp_available: bool) -> Proof:
        host.modules["tls"] = 1
        host.write()
        return real(ulp_available)

    monkeypatch.setattr(proof, "probe", probe)
    found = collect(host, load_module=True)
    assert found["trial"] == {"loaded_module": True, "left_loaded": True, "why": None}
    assert host.modules == {"tls": 1}


def test_sockets_of_the_trial_may_need_a_moment(host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        host.modules["tls"] = 0
        host.write()

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(proof, "probe", lambda ulp: host.modules.update(tls=1) or Proof(True))
    assert collect(host, load_module=True)["trial"]["left_loaded"] is False
    assert len(sleeps) == 1 and host.modules == {}


def test_one_who_loads_it_at_the_same_time_keeps_it(
    host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deploy had the lock of the levers first: what it loaded is not ours to unload."""
    real = originals.lock

    def lock(root: str) -> Any:
        host.load("tls")
        return real(root)

    monkeypatch.setattr(originals, "lock", lock)
    found = collect(host, load_module=True)
    assert found["trial"]["loaded_module"] is False
    assert host.modules == {"tls": 0} and tried == BOTH


def test_the_trial_holds_the_lock_of_the_levers(host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(ulp_available: bool) -> UlpState:
        with pytest.raises(KtlsError, match="is changing this host"), originals.lock(str(host.place), 0.01):
            pass
        tried.append("held")
        return UlpState(True)

    monkeypatch.setattr(ulp_probe, "probe", probe)
    collect(host, load_module=True)
    assert "held" in tried


def test_a_trial_that_fails_unloads_too(host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ulp_available: bool) -> Proof:
        raise MemoryError

    monkeypatch.setattr(proof, "probe", fail)
    with pytest.raises(MemoryError):
        info.collect(str(host.place), host, load_module=True)
    assert host.modules == {}


def test_a_module_that_cannot_be_loaded(host: Host, tried: list[str]) -> None:
    host.answers["modprobe tls"] = CommandResult(1, "", "modprobe: ERROR: could not insert 'tls': Key was rejected\n")
    found = collect(host, load_module=True)
    assert "Key was rejected" in found["trial"]["why"]
    assert found["trial"]["loaded_module"] is False and tried == []
    assert found["phases"]["tx"]["verdict"] == "unknown"


@pytest.mark.parametrize("code", ["command_missing", "command_timeout"])
def test_a_host_without_modprobe_is_described_all_the_same(host: Host, tried: list[str], code: str) -> None:
    """As a minimal container has it: what a host lacks is part of the answer."""
    host.answers["modprobe"] = KtlsError(code, "the program modprobe cannot be run on this host")
    found = collect(host, load_module=True)
    assert "modprobe cannot be run" in found["trial"]["why"] and tried == []
    assert found["phases"]["userspace"]["verdict"] == "ready"


@pytest.mark.parametrize("code", ["lock_failed", "levers_busy"])
def test_one_who_may_not_have_the_lock_reads_what_he_may(
    host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def lock(root: str) -> Any:
        raise KtlsError(code, "the lock cannot be had")

    monkeypatch.setattr(originals, "lock", lock)
    found = collect(host, load_module=True)
    assert "the lock cannot be had" in found["trial"]["why"] and tried == []
    assert found["phases"]["userspace"]["verdict"] == "ready"


@pytest.mark.parametrize(
    ("state", "reason"),
    [(OpensslState("libcrypto.so.3", "OpenSSL 3.5.7", 0x30500070, False), "openssl_without_ktls")],
)
def test_nothing_is_loaded_for_a_library_that_cannot(
    host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch, state: OpensslState, reason: str
) -> None:
    monkeypatch.setattr(openssl_lib, "probe", lambda: state)
    found = collect(host, load_module=True)
    assert found["phases"]["tx"]["reasons"][0]["code"] == reason
    assert tried == [] and not [command for command in host.asked if "modprobe" in command]


@pytest.mark.parametrize("lacks", ["blocked", "absent"])
def test_nothing_is_loaded_where_it_cannot_be(host: Host, tried: list[str], lacks: str) -> None:
    if lacks == "blocked":
        host.put("etc/modprobe.d/no.conf", "install tls /bin/false\n")
    else:
        host.put(f"lib/modules/{KERNEL}/modules.dep", "kernel/net/other.ko:\n")
    found = collect(host, load_module=True)
    assert found["phases"]["tx"]["verdict"] == "refused"
    assert tried == [] and not [command for command in host.asked if "modprobe" in command]


def test_ciphers_that_the_trial_brought_go_with_it(host: Host, tried: list[str]) -> None:
    """Those that were there before, that somebody uses, or that are no ciphers, stay."""
    host.load("libchacha")
    host.loads = ("tls", "ccm", "qat", "other")
    collect(host, load_module=True)
    assert host.modules == {"libchacha": 0, "qat": 0, "other": 0}


def test_ciphers_in_use_stay(host: Host, tried: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """And do not keep the others here."""
    host.loads = ("tls", "ccm", "libchacha")
    monkeypatch.setattr(proof, "probe", lambda ulp: host.modules.update(ccm=1) or Proof(True))
    collect(host, load_module=True)
    assert host.modules == {"ccm": 1}


# The facts that are kept


def test_facts_say_what_stays_the_same(host: Host, tried: list[str]) -> None:
    host.load("tls")
    host.put("proc/net/tls_stat", "TlsTxSw 1\n")
    first = info.fact_spec(collect(host))
    host.put("proc/net/tls_stat", "TlsTxSw 4711\nTlsCurrTxSw 3\n")
    host.modules["tls"] = 3
    host.write()
    assert info.fact_spec(collect(host)) == first
    assert (first.path, first.mode, first.owner) == ("/etc/ansible/facts.d/ktls.fact", 0o644, "root")


@pytest.mark.parametrize("system", systems.RECORDED)
def test_facts_of_recorded_systems(system: str) -> None:
    found = systems.collected(system)
    content = info.fact_spec(found).content
    assert content is not None and content.endswith(b"\n")
    facts = json.loads(content)
    assert facts == info.cached_facts(found)
    assert facts["kernel"] == systems.KERNELS[system]
    assert facts["phases"]["tx"] == {"verdict": "ready", "reasons": []}
    assert facts["phases"]["rx"]["verdict"] == ("ready" if system == "debian13-backports" else "refused")
    assert len(facts["openssl"]["cells"]) == 8 and facts["openssl"]["done"]
    for word in ("TlsTxSw", "refcount", "nics", "datapaths"):
        assert word not in content.decode()


def test_facts_are_about_what_changed() -> None:
    found = systems.collected("debian13")
    before = info.cached_facts(found)
    found["kernel"] = "9.9"
    assert info.cached_facts(found) != before


# This host


def test_this_host() -> None:
    found = info.collect()
    assert json.loads(json.dumps(found)) == found
    assert found["openssl"]["version"] == openssl_lib.probe().version
    assert found["gnutls"]["config_file"]
    assert found["trial"]["loaded_module"] is False


def test_an_ordinary_user_reads_what_he_may() -> None:
    """Also when he asks for the trial, which is root's."""

    def ask(emit: isolated.Emit) -> None:
        os.setgroups([])
        os.setuid(65534)
        emit(info.collect(load_module=True))

    found = isolated.call(ask, 60)
    assert found.done, found
    mine = info.collect()
    assert found.answers[0]["openssl"]["version"] == mine["openssl"]["version"]
    assert found.answers[0]["phases"]["userspace"] == mine["phases"]["userspace"]


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
