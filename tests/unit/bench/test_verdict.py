# SPDX-License-Identifier: Apache-2.0
"""Ratios, verdicts, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cli, docs, picture, scenarios, verdict
from bench.errors import BenchError
from bench.generators import Outcome
from bench.servers import nginx_conf, sidecar_config
from bench.settings import CIPHER, SCENARIOS, Settings, split_cpus
from bench.table import render
from bench.verdict import MET, MISSED, UNCLEAR, Target

RATE = Target("bytes_per_s", "throughput", at_least=1.0)
CPU = Target("cpu_ns_per_byte", "CPU", at_most=1.0)
LIVELY = {"server_busy": 0.99, "client_busy": 0.3}
BLOCKED = {"server_busy": 0.5, "client_busy": 0.99}


def rounds(*pairs: tuple[float, float], metric: str = "bytes_per_s", busy: dict[str, float] = LIVELY) -> Any:
    return [{"nginx": {metric: a, **busy}, "sidecar": {metric: b, **busy}} for a, b in pairs]


def judge(found: Any, target: Target, shared: bool = False) -> dict[str, Any]:
    return verdict.judge(found, "nginx", "sidecar", [target], shared)[0]


def test_the_median_of_the_ratios_decides_and_the_spread_is_kept() -> None:
    item = judge(rounds((100, 90), (100, 110), (10, 12)), RATE)
    assert (item["median"], item["low"], item["high"], item["verdict"]) == (1.1, 0.9, 1.2, MET)


def test_each_round_is_a_ratio_of_its_own() -> None:
    # The machine became ten times slower halfway; the servers are alike.
    assert judge(rounds((100, 100), (10, 10), (10, 10)), RATE)["low"] == 1.0


@pytest.mark.parametrize(
    ("target", "ratio", "expected"),
    [(RATE, 0.99, MISSED), (RATE, 1.0, MET), (CPU, 1.01, MISSED), (CPU, 1.0, MET)],
)
def test_bounds(target: Target, ratio: float, expected: str) -> None:
    assert judge(rounds((1.0, ratio), metric=target.metric), target)["verdict"] == expected


def test_a_rate_that_the_client_limits_proves_nothing() -> None:
    limited = rounds((100, 101), busy=BLOCKED)
    assert judge(limited, RATE)["verdict"] == UNCLEAR
    assert judge(limited, RATE, shared=True)["verdict"] == MET
    by_cpu = rounds((1.0, 0.9), metric="cpu_ns_per_byte", busy=BLOCKED)
    assert judge(by_cpu, CPU)["verdict"] == MET


@pytest.mark.parametrize(("metric", "expected"), [("p99_ms", UNCLEAR), ("bytes_per_s", UNCLEAR), ("other", MET)])
def test_what_goes_by_the_clock_needs_a_quiet_machine(metric: str, expected: str) -> None:
    target = Target(metric, "x", at_most=1.0)
    disturbed = rounds((1.0, 0.9), metric=metric, busy={**LIVELY, "others_busy": 0.4})
    assert judge(disturbed, target, shared=True)["verdict"] == expected
    assert judge(rounds((1.0, 0.9), metric=metric), target)["verdict"] == MET


def test_an_absolute_target_looks_at_the_second_contestant_only() -> None:
    target = Target("kib", "memory", at_most=40, absolute=True)
    found = [{"nginx": LIVELY, "sidecar": {"kib": 39.0, **LIVELY}}]
    assert judge(found, target)["verdict"] == MET
    found[0]["sidecar"]["kib"] = 41.0
    assert judge(found, target)["verdict"] == MISSED


@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)), min_size=1))
def test_the_median_lies_in_the_spread(pairs: list[tuple[float, float]]) -> None:
    item = judge(rounds(*pairs), RATE)
    assert item["low"] <= item["median"] <= item["high"]


def test_nothing_judged_is_not_all_met() -> None:
    assert not verdict.all_met([])
    assert not verdict.all_met([{"judged": [{"verdict": MET}, {"verdict": UNCLEAR}]}])
    assert verdict.all_met([{"judged": [{"verdict": MET}]}])


def test_figures_are_those_of_the_servers_cpu() -> None:
    outcome = Outcome(requests=1000, bytes=2_000_000, seconds=4.0, p99_ms=3.0)
    found = scenarios.figures(outcome, server_cpu_s=2.0, client_cpu_s=1.0, machine_busy_s=3.5, wall_s=4.0, cpus=1)
    assert found["requests_per_cpu_s"] == 500 and found["requests_per_s"] == 250
    assert found["cpu_us_per_request"] == 2000 and found["cpu_ns_per_byte"] == 1000
    assert found["server_busy"] == 0.5 and found["others_busy"] == pytest.approx(0.125)


def test_a_server_that_did_nothing_is_no_round() -> None:
    with pytest.raises(BenchError, match="did nothing"):
        scenarios.figures(Outcome(0, 0, 4.0), 1.0, 1.0, 2.0, 4.0, 1)


def test_every_scenario_can_run_and_has_a_title() -> None:
    assert set(scenarios.RUNNERS) == set(scenarios.TITLES) == set(SCENARIOS)


def test_cpus_are_shared_only_where_there_is_one() -> None:
    assert split_cpus({3, 1}, 1) == ([1], [3])
    assert split_cpus({0, 1, 2, 3}, 3) == ([0, 1, 2], [3])
    assert split_cpus({0}, 1) == ([0], [0])


def test_settings_survive_json() -> None:
    settings = Settings(mode="rx", only=("small",), idle=7)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    with pytest.raises(ValueError, match="hw"):
        Settings.from_json({**settings.to_json(), "mode": "hw"})


def test_both_servers_are_configured_alike() -> None:
    conf = nginx_conf("/root", "/cert", "/key", "/prefix", 8443, 2, ktls=True)
    config = sidecar_config("/root", "/cert", "/key", "/prefix", 8443, 2)
    assert "listen 127.0.0.1:8443 ssl reuseport;" in conf and config["listen"] == [{"host": "127.0.0.1", "port": 8443}]
    assert "worker_processes 2;" in conf and config["workers"] == 2
    assert "ssl_conf_command Options KTLS;" in conf and f"Ciphersuites {CIPHER};" in conf
    assert "KTLS" not in nginx_conf("/root", "/cert", "/key", "/prefix", 8443, 1, ktls=False)


def example() -> dict[str, Any]:
    busy = {"requests_per_s": 10.0, "bytes_per_s": 2e6, "cpu_us_per_request": 5.0, "cpu_ns_per_byte": 1.0,
            "requests_per_cpu_s": 3.0, "others_busy": 0.0, **LIVELY}  # fmt: skip
    found = [{"nginx": dict(busy), "sidecar": dict(busy)}]
    held = [{"without": {**busy, "p99_ms": 2.0}, "with": {**busy, "p99_ms": 2.1, "kib_per_connection": 19.0}}]
    pairs = [("bulk-1m", found, "nginx", "sidecar", [scenarios.THROUGHPUT, scenarios.CPU_PER_BYTE]),
             ("idle", held, "without", "with", [scenarios.IDLE_MEMORY, scenarios.IDLE_P99])]  # fmt: skip
    return {
        "place": "vm",
        "started": "2026-01-02T03:04:05Z",
        "settings": Settings().to_json(),
        "machine": {"CPU": "one"},
        "load_average": [0.1, 0.2],
        "notes": ["a note"],
        "scenarios": [
            {
                "name": name,
                "title": scenarios.TITLES[name],
                "judged": verdict.judge(some, base, other, targets, False),
                "medians": verdict.medians(some, (base, other)),
                "idle": {
                    "connections": 5000,
                    "base_pss_kib": 1,
                    "held_pss_kib": 2,
                    "nginx_pss_kib_per_connection": 14.7,
                },
            }
            for name, some, base, other, targets in pairs
        ],
    }


def test_the_table_says_it_all() -> None:
    text = render(example())
    for words in (
        "| files of 1 MiB | throughput | **1.00** | ≥ 1 | met |",
        "| idle connections | KiB of memory per idle connection | **19.0** | ≤ 40 | met |",
        "sidecar with 5,000 idle connections",
        "- a note",
        "| CPU | one |",
        "nginx takes 14.7 KiB for each",
    ):
        assert words in text
    assert "not quiet" not in text


def test_servers_that_receive_differently_are_noted_once() -> None:
    result = example()
    seen = {"nginx": {"kTLS receiving": "yes"}, "sidecar": {"kTLS receiving": "no"}}
    result["scenarios"] = [{**result["scenarios"][0], "connection": seen}] * 2
    assert render(result).count("- the kernel decrypts requests: nginx yes, sidecar no\n") == 1


def test_a_machine_that_was_not_quiet_is_said() -> None:
    result = example()
    result["scenarios"][0]["medians"]["nginx"]["others_busy"] = 0.9
    assert "the machine was not quiet: others used up to 0.90 CPUs" in render(result)


def test_the_picture_scales_absolute_values_to_their_limit(tmp_path: Path) -> None:
    drawn = picture.rows(example())
    assert drawn[2]["limit"] == 1.0 and drawn[2]["median"] == pytest.approx(19 / 40)
    picture.draw(example(), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_tables_go_between_the_marks_of_the_page_and_replace_the_old() -> None:
    page = docs.PAGE.read_text(encoding="utf-8")
    once = docs.place(page, ["one"])
    assert docs.place(docs.place(page, ["another table"]), ["one"]) == once and "another table" not in once
    assert once.startswith(page[: page.index(docs.BEGIN)]) and once.endswith(page[page.index(docs.END) :])
    with pytest.raises(BenchError, match="lost its marks"):
        docs.place("nothing", ["one"])


@pytest.mark.parametrize(("met", "status"), [(1.0, 0), (2.0, 1)])
def test_the_exit_status_tells_whether_targets_are_met(
    met: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = example()
    judged = verdict.judge(rounds((1.0, met), metric="cpu_ns_per_byte"), "nginx", "sidecar", [CPU], False)
    result["scenarios"][0]["judged"] = judged
    monkeypatch.setattr(cli, "_measure", lambda place, settings: {**result, "settings": settings.to_json()})
    out = tmp_path / "r.json"
    assert cli.main(["--quick", "--only", "bulk-1m", "--out", str(out)]) == status
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["settings"]["only"] == ["bulk-1m"] and kept["settings"]["rounds"] == 3
    assert "files of 1 MiB" in capsys.readouterr().out


def test_what_cannot_be_measured_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(place: str, settings: Settings) -> dict[str, Any]:
        raise BenchError("not installed: wrk")

    monkeypatch.setattr(cli, "_measure", fail)
    assert cli.main(["--place", "native"]) == 2
    assert capsys.readouterr().err == "bench: not installed: wrk\n"
