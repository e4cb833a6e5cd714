# SPDX-License-Identifier: Apache-2.0
"""The agent's side: what it says with evidence, and what without; the wire between; the configuration."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.evidence import wire
from ktls_agent.evidence.config import EvidenceConfig, parse
from ktls_agent.evidence.kernel_log import KernelLog
from ktls_agent.evidence.model import End, Ended, Kind, ProcessUse, Snapshot, Volume
from ktls_agent.evidence.nic import NicCounters
from ktls_agent.evidence.part import EvidencePart, summarise
from ktls_host.commands import CommandResult
from ktls_host.errors import KtlsError
from ktls_host.nic import drivers, tls_features

PLAIN = Kind(443, "web", "", "", "none", "none")
KTLS = Kind(443, "web", "TLSv1.3", "AES-256-GCM", "sw", "none")
SNAPSHOT = Snapshot(
    at_s=100.0,
    since_s=50.0,
    namespaces={"host": {"TlsTxSw": 3}, "4026532177": {}},
    connections={KTLS: 2},
    volumes={KTLS: Volume(600, 50), PLAIN: Volume(300, 50)},
    unattributed=Volume(100, 0),
    inferred=Volume(90, 9),
    presumed=Volume(40, 4),
    clients=5,
    ktls_clients=1,
    judged_s=91.5,
    processes=(ProcessUse("web", 4, 0.5),),
    nic={"eth0": {"tx_tls_ctx": 7}},
    destroyed=9,
    ended={End(443, "web", "ktls"): Ended(8, 2), End(443, "web", "unknown"): Ended(1, 0)},
    tcp={"host": {"TcpEstabResets": 3}, "4026532177": {}},
    vanished=1,
    lost_events=1,
    scan_cpu_s=0.25,
    kernel_warnings=1,
    kernel_warning="tls: bad",
    problems=("a",),
)


def test_the_wire_keeps_everything() -> None:
    assert wire.decode(json.loads(json.dumps(wire.encode(SNAPSHOT)))) == SNAPSHOT


def test_a_helper_of_the_version_before_presumes_nothing() -> None:
    later = ("presumed", "clients", "ktls_clients", "judged_s")
    found = wire.decode({key: value for key, value in wire.encode(SNAPSHOT).items() if key not in later})
    assert (found.presumed, found.clients, found.judged_s) == (Volume(), 0, 0.0)
    assert refresh(part_of(found))["judged_age_s"] is None, "not known is no zero"


def test_too_many_nic_counters_are_left_out_and_that_is_said() -> None:
    many = replace(SNAPSHOT, nic={f"eth{n}": {f"tx_tls_counter_{m}": 1 for m in range(128)} for n in range(30)})
    plain = wire.encode(many)
    assert plain["nic"] == {} and any("left out" in problem for problem in plain["problems"])


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": [[443, "web", "", "", "none", "none", 1, -1, 0]]}, {"kinds": [[443]]}, {"kinds": 3},
        {"at_s": "x"}, {"at_s": float("nan")}, {"unattributed": [1]}, {"destroyed": True}, {"namespaces": {"host": 3}},
        {"kernel_warning": None}, {"processes": [[1, 2, 3]]},
    ],
)  # fmt: skip
def test_evidence_that_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(KtlsError, match="cannot be read"):
        wire.decode({**wire.encode(SNAPSHOT), **change})


@pytest.mark.parametrize("plain", [None, [], {}, "x", 3])
def test_evidence_that_is_no_object(plain: Any) -> None:
    with pytest.raises(KtlsError):
        wire.decode(plain)


def test_shares_count_what_is_not_known() -> None:
    total = summarise(SNAPSHOT)
    assert (total["sent"], total["received"]) == (1000, 100)
    assert (total["ktls_sent_share"], total["ktls_received_share"]) == (0.6, 0.0)
    assert total["unattributed_share"] == pytest.approx(100 / 1100, abs=1e-6)
    assert total["presumed"] == {"sent": 40, "received": 4}
    assert total["clients"] == {"looked_at": 5, "ktls": 1}
    assert summarise(replace(SNAPSHOT, presumed=Volume(45, 4)), SNAPSHOT)["presumed"] == {"sent": 5, "received": 0}
    assert total["by_version"] == {"TLSv1.3": pytest.approx(600 / 1100, abs=1e-6)}
    assert total["cpu"]["web"] == {"cpu_s": 0.5, "bytes": 1000, "ns_per_byte": 500000.0}


def test_shares_of_an_interval_and_of_nothing() -> None:
    later = replace(
        SNAPSHOT, volumes={KTLS: Volume(700, 50), PLAIN: Volume(300, 50)}, processes=(ProcessUse("web", 4, 0.6),)
    )
    interval = summarise(later, SNAPSHOT)
    assert (interval["sent"], interval["ktls_sent_share"], interval["ktls_received_share"]) == (100, 1.0, None)
    assert interval["cpu"]["web"]["cpu_s"] == 0.1
    assert summarise(Snapshot(1.0))["ktls_sent_share"] is None, "nothing was sent: no share, not zero"


class Helper:
    def __init__(self, *answers: Snapshot | Exception) -> None:
        self.answers = list(answers)

    def __call__(self, path: str) -> Snapshot:
        assert path == "/run/diag.sock"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def part_of(*answers: Snapshot | Exception, now_s: float = 103.0) -> EvidencePart:
    return EvidencePart(EvidenceConfig(), "/run/diag.sock", Helper(*answers), lambda: now_s)


def refresh(part: EvidencePart, times: int = 1) -> dict[str, Any]:
    async def run() -> None:
        for _ in range(times):
            await part.refresh()

    asyncio.run(run())
    return part.status()


def test_before_the_first_answer_nothing_is_known() -> None:
    status = part_of().status()
    assert status == {"known": False, "problem": None}


def test_a_helper_that_fails_is_a_problem_and_what_was_known_stays() -> None:
    part = part_of(SNAPSHOT, KtlsError("unreachable", "cannot connect:\nstart it"), replace(SNAPSHOT, problems=()))
    assert refresh(part)["problem"] == "a"
    status = refresh(part)
    assert status["problem"] == part.problem == "no evidence: cannot connect: start it"
    assert status["known"] and status["total"]["sent"] == 1000 and status["age_s"] == 3.0
    assert status["judged_age_s"] == 11.5
    assert refresh(part)["problem"] is None


def test_old_evidence_is_a_problem() -> None:
    assert refresh(part_of(SNAPSHOT, now_s=400.0))["problem"] == "evidence is 300 s old"


def test_an_observer_that_started_anew_has_no_interval() -> None:
    part = part_of(SNAPSHOT, SNAPSHOT, replace(SNAPSHOT, since_s=99.0, volumes={}))
    assert refresh(part)["interval"] is None
    assert refresh(part)["interval"]["sent"] == 0
    assert refresh(part)["interval"] is None and part.previous is None


@pytest.mark.parametrize(
    "raw",
    [
        None, [], {"interval": 3}, {"interval_s": "10"}, {"interval_s": 0.5}, {"interval_s": True}, {"interval_s": 1e9},
        {"sample_s": 0.1}, {"ports": 443}, {"ports": [0]}, {"ports": [True]}, {"ports": ["443"]}, {"ports": [1] * 300},
        {"sample_share": 0}, {"sample_share": 0.6}, {"sample_share": True}, {"sample_share": "0.1"},
        {"processes": "nginx"}, {"processes": [""]}, {"processes": ["a\n"]}, {"interval_s": float("nan")},
    ],
)  # fmt: skip
def test_configuration_is_strict(raw: Any) -> None:
    with pytest.raises(KtlsError) as caught:
        parse(raw, "/etc/ktls/agent.json")
    assert caught.value.code == "bad_config" and "/etc/ktls/agent.json" in caught.value.message


def test_configuration() -> None:
    assert parse({}, "x") == EvidenceConfig()
    raw = {"interval_s": 5, "sample_s": 0, "sample_share": 0.1, "ports": [443], "processes": ["envoy"]}
    assert parse(raw, "x") == EvidenceConfig(5.0, 0.0, 0.1, (443,), ("envoy",))


@pytest.mark.parametrize(
    ("record", "counts"),
    [
        (b"4,1,5,-;tls: warning\n SUBSYSTEM=net\n", True),
        (b"3,1,5,-;mlx5_core 0000:01:00.0 eth0: kTLS resync failed\n", True),
        (b"4,1,5,-;WARNING: CPU: 1 PID: 2 at net/tls/tls_sw.c:1 tls_sw_recvmsg+0x1/0x2\n", True),
        (b"6,1,5,-;tls: module loaded\n", False),
        (b"12,1,5,-;tls of a program, not of the kernel\n", False),
        (b"4,1,5,-;settlsx and atlas\n", False),
        (b"4,1,5,-;nothing\n tls=1\n", False),
        (b"", False), (b"\xff\xfe;tls", False), (b"x,;tls", False),
    ],
)  # fmt: skip
def test_kernel_log(record: bytes, counts: bool, tmp_path: Any) -> None:
    with open(tmp_path / "x", "wb") as stream:
        log = KernelLog(stream.fileno())
    assert not log.readable, "a file is not /dev/kmsg"
    log.take(record)
    assert (log.count, bool(log.last)) == (counts, counts)


@given(st.binary(max_size=100))
def test_kernel_log_never_raises(record: bytes) -> None:
    KernelLog(-1).take(record)


class Ethtool:
    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def run(self, argv: Any, stdin: str | None = None) -> CommandResult:
        self.asked.append(argv[2])
        if argv[2] not in self.answers:
            raise KtlsError("command_missing", "no ethtool")
        return CommandResult(0, self.answers[argv[2]], "")


def test_nic_counters_of_the_labs_device_in_the_lab(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "sim0").mkdir()
    monkeypatch.setattr(tls_features, "driver_of", lambda name: "tlssim")
    monkeypatch.setattr(drivers, "LAB_MARKER", str(tmp_path / "marker"))
    runner = Ethtool({"sim0": "tx_tls_ctx: 5\ntx_tls_refused: 2\nsim_leaked: 1\n"})
    assert NicCounters(runner, str(tmp_path)).read() == {}  # type: ignore[arg-type]
    (tmp_path / "marker").touch()
    found = NicCounters(runner, str(tmp_path)).read()  # type: ignore[arg-type]
    assert found == {"sim0": {"tx_tls_ctx": 5, "tx_tls_refused": 2}}


def test_nic_counters(tmp_path: Any) -> None:
    for name, driver in (("eth0", "mlx5_core"), ("eth1", "virtio_net"), ("veth0", None)):
        (tmp_path / name).mkdir()
        if driver:
            (tmp_path / name / "device").mkdir()
            (tmp_path / name / "device/driver").symlink_to(f"/sys/bus/drivers/{driver}")
    runner = Ethtool({"eth0": "NIC statistics:\n     tx_tls_ctx: 5\n     rx_bytes: 7\n", "eth1": "rx_bytes: 1\n"})
    nic = NicCounters(runner, str(tmp_path))  # type: ignore[arg-type]
    assert nic.read() == {"eth0": {"tx_tls_ctx": 5}}
    assert nic.read() == {"eth0": {"tx_tls_ctx": 5}}
    assert runner.asked == ["eth0", "eth1", "eth0"], "who counts no TLS is not asked again"
    runner.answers.clear()
    assert nic.read() == {} and nic.problem is not None and "eth0" in nic.problem
