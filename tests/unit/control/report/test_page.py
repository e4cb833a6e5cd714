# SPDX-License-Identifier: Apache-2.0
"""The report as text; a browser looks at it in tests/conformance/test_report_page.py."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ktls_control.cli import main
from ktls_control.errors import ControlError
from ktls_control.report_run import render, write_report
from ktls_control.rollout.store import Run
from ktls_control.view import charts, drain, evidence, svg, verdicts
from tests import journals

from .conftest import Stories

RunOf = Callable[[str], Run]
RECHECK = {"web-09": "its order is gone"}
_VOID = {"meta", "link", "br", "img"}


class Checker(HTMLParser):
    """Elements are closed in order; what the page refers to; its text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: dict[str, int] = {}
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in _VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self._look(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def _look(self, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [
            str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")
        ]
        assert not [name for name, _value in attrs if name.startswith("on")]


def parsed(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def words_of(page: str) -> str:
    return " ".join(" ".join(parsed(page).words).split())


@pytest.fixture(scope="module")
def failed(stories: Stories) -> str:
    return render(stories("failed").run_dir, now=journals.BEGIN + 9000)


@pytest.mark.parametrize("name", ["completed", "failed", "soaking"])
def test_it_refers_to_nothing_outside(stories: Stories, name: str) -> None:
    page = parsed(render(stories(name).run_dir, now=journals.BEGIN + 9000))
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert "script" not in page.tags
    for style in (word for word in page.words if "{" in word):
        assert "url(" not in style
        assert "@import" not in style


def test_it_tells_the_whole_story(failed: str) -> None:
    text = words_of(failed)
    for words in (
        "it failed, and went back",
        "wave 2: gate failed: latency +21.0 %",
        "2 of 24",
        "waited for people 6m51s",
        "no controller 2m20s",
        "going back took",
        "kernel_too_old", "upgrade the kernel to 5.1 or later", "old-1",
        "looking at web-05",
        "errors: new sidecar errors: EBADMSG +31",
        "web-06 unreachable: no answer within 20 s",
        "Journal whole:",
        "switchback, sign flips of pairs",
        "its digest matches",
    ):  # fmt: skip
        assert words in text, words


def test_pictures_are_there(failed: str, stories: Stories) -> None:
    labels = re.findall(r'<svg[^>]* aria-label="([^"]+)"', failed)
    for label in (
        "Timeline of the rollout",
        "Effect of each metric with its interval",
        "E-value of the error test over time",
        "CPU per GB over time, with and without kTLS",
        "CPU s per GB of each host before, without and with kTLS",
        "Change of each host against the margin",
    ):
        assert label in labels
    assert "kTLS connections and hosts over the time since off" not in labels


def test_the_drain_curve(stories: Stories, run_of: RunOf, tmp_path: Path) -> None:
    said = journals.off_results(stories("failed"))
    (tmp_path / "off.json").write_text(json.dumps(said))
    page = render(run_of("failed").directory, off=tmp_path / "off.json")
    assert "kTLS connections and hosts over the time since off" in page
    assert "23 of 24" in words_of(page)
    found = drain.read(said)
    assert found is not None
    assert (found.hosts, found.off, len(found.not_off)) == (24, 23, 1)
    assert found.open[0][1] == max(count for _at, count in found.open)
    assert found.open[-1][1] == 0
    assert found.drained_90_s is not None
    assert found.drained_90_s < found.done[-1]
    # The run's own file is taken when no other is named.
    run = Run(next((tmp_path / "state").glob("*/runs/*")))
    (run.directory / "off.json").write_text(json.dumps(said))
    assert "23 of 24" in words_of(render(run.directory))


@pytest.mark.parametrize(
    "said", [None, {}, {"hosts": []}, {"hosts": {}}, {"hosts": {"a": 1}}, {"hosts": {"a": {"curve": 1}}}]
)
def test_odd_answers_of_off(said: dict[str, object] | None) -> None:
    found = drain.read(said)
    assert found is None or charts.drain(found).startswith("<svg")


def test_curves_are_summed() -> None:
    assert drain.together([[(0, 10), (2, 4)], [(1, 5), (3, 0)]]) == ((0, 15), (0, 15), (1, 15), (2, 9), (3, 4))
    assert drain.together([]) == ()


def test_raw_data_is_the_data(failed: str, stories: Stories) -> None:
    links = {
        name: href for href, name in re.findall(r'<a href="(data:[^"]+)" download="[^"]*-([a-z]+\.[a-z.]+)"', failed)
    }
    assert set(links) >= {"hosts.csv", "journal.jsonl", "plan.yml"}

    def data(name: str) -> bytes:
        raw = base64.b64decode(links[name].partition(",")[2])
        return gzip.decompress(raw) if name.endswith(".gz") else raw

    run_dir = stories("failed").run_dir
    assert data("journal.jsonl") == (run_dir / "journal.jsonl").read_bytes()
    rows = list(csv.DictReader(io.StringIO(data("hosts.csv").decode())))
    assert len(rows) == 24
    assert float(rows[0]["cpu_s_per_gb_ktls"]) < float(rows[0]["cpu_s_per_gb_userspace"])
    series = [json.loads(line) for line in data("evidence.jsonl.gz").splitlines()]
    assert {one["host"] for one in series} == {f"web-0{number}" for number in range(1, 9)}


def test_hostile_words_are_words(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    evil = '</td><script>alert(1)</script><img src="https://evil.example/x">'
    story.open(1, failing={"web-01": "no_module"})
    story.journal.add("control", verb="pause", by=evil, why=evil)
    story.judge(1, "fail", reasons=[evil], hosts={"web-02": (evil,)})
    story.revert(1, evil)
    story.journal.add("notified", trigger="gate_failed", ok=False, error=evil)
    story.end("failed", evil)
    page = parsed(render(story.run_dir))
    assert "script" not in page.tags
    assert "img" not in page.tags


def test_a_broken_journal_is_said_at_the_top(run_of: RunOf) -> None:
    run = run_of("failed")
    text = run.journal.read_bytes()
    line = text[: text.index(b"grace@control1")].count(b"\n") + 1
    run.journal.write_bytes(text.replace(b"grace@control1", b"nobody@elsewhere", 1))
    page = render(run.directory)
    assert page.index(f"broken: line {line} was changed") < page.index("<h2>Timeline")
    assert "Journal whole" not in words_of(page)


def test_another_plan_and_none(run_of: RunOf) -> None:
    run = run_of("failed")
    run.plan.write_text("nothing: here\n")
    assert "not a plan" in words_of(render(run.directory))
    run.plan.unlink()
    page = words_of(render(run.directory))
    assert "The plan could not be read." in page
    assert "latency +21.0" in page


def test_bad_evidence_is_left_out(run_of: RunOf) -> None:
    run = run_of("failed")
    files = sorted(run.evidence.iterdir())
    files[0].write_text("{")
    files[1].write_text("[]")
    files[2].write_text('{"samples": [{"at_s": 1}]}')
    (run.evidence / "notes.txt").write_text("x")
    assert parsed(render(run.directory)).tags["svg"] > 5


def test_the_smallest_run(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    assert "No wave was opened." in render(story.run_dir)
    story.open(1, failing=dict.fromkeys(story.plan.waves[0].hosts, "cut_off"))
    assert "unreachable" in render(story.run_dir)


def test_every_beginning_of_a_run_is_a_report(run_of: RunOf) -> None:
    run = run_of("failed")
    lines = run.journal.read_bytes().splitlines(keepends=True)
    for end in range(1, len(lines), 6):
        run.journal.write_bytes(b"".join(lines[:end]) + lines[end][:40])
        assert "the last line is not whole" in words_of(render(run.directory))


def test_verdicts_without_numbers(tmp_path: Path) -> None:
    """A gate that looks at hosts alone has no metrics; one without traffic has no effects."""
    story = journals.begin(tmp_path)
    story.open(1)
    verdict: dict[str, Any] = {
        "outcome": "inconclusive",
        "reasons": ["no series of any host"],
        "metrics": [],
        "e_path": [],
        "hosts": {},
    }
    story.journal.add("verdict", wave=1, outcome="inconclusive", verdict=verdict, recheck={})
    render(story.run_dir)
    none = {"name": "cpu", "outcome": "inconclusive", "effect": None, "low": None, "high": None, "margin": 0.03}
    verdict = {**verdict, "e_value": None, "metrics": [{**none, "test": "", "p": None, "n": 0, "detail": "no traffic"}]}
    story.journal.add(
        "verdict", wave=1, outcome="inconclusive", verdict=verdict, recheck={"web-09": "its order is gone"}
    )
    text = words_of(render(story.run_dir))
    assert "no traffic" in text
    assert "web-09: its order is gone" in text


def test_many_hosts_stay_readable(tmp_path: Path) -> None:
    story = journals.begin(tmp_path, journals.plan_of([4, 396], refused=300))
    story.minutes = 0.5
    for number in (1, 2):
        story.open(number)
        story.soak(number, 600, 2)
        story.judge(number)
        story.confirm(number)
    story.end("completed")
    page = render(story.run_dir)
    checker = parsed(page)
    # A path for a crowd, not an element a host; the table of all hosts is folded.
    assert checker.tags["path"] < 300
    assert "<details><summary>400 hosts" in page
    assert "and 0 more" not in page
    drawn = re.sub(r'href="data:[^"]*"', "", page)
    assert len(drawn) < 400_000


def test_the_command(run_of: RunOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("completed")
    assert main(["report", "--run", str(run.directory)]) == 0
    assert capsys.readouterr().out == f"{run.directory / 'report.html'}\n"
    assert main(["report", "--run", str(run.directory), "-o", str(tmp_path / "new" / "r.html")]) == 0
    assert (tmp_path / "new" / "r.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()
    (tmp_path / "file").write_text("")
    for options, says in (
        (["-o", str(tmp_path / "file" / "r.html")], "name another file"),
        (["--off", str(tmp_path / "file")], "not what `ktls off --json` writes"),
        (["--off", "/nowhere"], "/nowhere"),
    ):
        assert main(["report", "--run", str(run.directory), *options]) == 1
        err = capsys.readouterr().err
        assert says in err
        assert err.count("\n") == 1


def test_the_same_run_is_the_same_page(stories: Stories) -> None:
    run_dir = stories("completed").run_dir
    assert render(run_dir, now=1.0) == render(run_dir, now=1.0)


def test_the_engine_can_make_it_without_what_only_screens_need() -> None:
    """It runs inside of Ansible, where rich, matplotlib and scipy may be missing."""
    code = (
        "import sys\n"
        "for name in ('rich', 'matplotlib', 'scipy', 'numpy', 'paramiko'): sys.modules[name] = None\n"
        "import ktls_control.observers, ktls_control.report_run, ktls_control.view.page"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(ControlError):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


# Pieces


def test_sums_over_sums() -> None:
    samples: list[dict[str, Any]] = [
        {"seconds": 5.0, "cpu_s": 1.0, "sent": 10**9, "probe_s": [0.2]},
        {"seconds": 5.0, "cpu_s": 0.1, "sent": 0, "probe_s": []},
        {"seconds": 5.0, "cpu_s": None, "sent": 10**9},
    ]
    levels = evidence.levels(samples)
    assert levels.cpu == pytest.approx(1.1)
    assert levels.rate == pytest.approx(2e9 / 15)
    assert levels.probe_s == 0.2
    assert evidence.levels([]) == evidence.Levels(None, None, None, 0)


def test_washouts_and_mixed_samples_count_for_nothing() -> None:
    rows = [
        ("off", 9, False, 1.0),
        ("off", 12, False, 1.0),
        ("on", 14, True, 9.0),
        ("on", 16, False, 0.5),
        ("mixed", 18, False, 9.0),
    ]
    samples = [
        {"at_s": at, "seconds": 2.0, "arm": arm, "washout": washout, "cpu_s": cpu, "sent": 10**9}
        for arm, at, washout, cpu in rows
    ]
    found = evidence.reduce(1, "a", {"ordered_at_s": 10.0, "samples": samples})
    assert (found.before.cpu, found.off.cpu, found.on.cpu) == (1.0, 1.0, 0.5)
    assert found.change("cpu") == -0.5
    # Without userspace in the soak, before the order is what there is to compare with.
    alone = evidence.reduce(1, "a", {"ordered_at_s": 10.0, "samples": [samples[0], samples[3]]})
    assert alone.change("cpu") == -0.5
    assert evidence.reduce(1, "a", {"ordered_at_s": None, "samples": samples}).on.cpu is None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.213, 0.05), (3, 3), (0.0, 1e-9), (-5e9, 7e9)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert 1 <= len(found) <= 14
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_extreme_numbers_are_drawn() -> None:
    for values in ([1e300, 1.0], [0.0, 0.0], [1e-30], [5.0] * 300):
        assert "nan" not in charts.e_path(values, 40.0)
    wide = {"name": "cpu", "outcome": "fail", "effect": 9.0, "low": -5.0, "high": None, "margin": 0.03}
    drawn = charts.forest({"metrics": [wide]}, charts.reach_of([{"metrics": [wide]}]))
    assert "nan" not in drawn
    assert all(-50 < float(x) < 760 for x in re.findall(r' cx="([-\d.]+)"', drawn))


def test_what_is_worth_a_picture() -> None:
    def metric(name: str, outcome: str, *, low: float | None = None, gating: bool = True) -> dict[str, Any]:
        return {
            "name": name,
            "outcome": outcome,
            "effect": 0.1,
            "low": low,
            "high": low,
            "margin": 0.0,
            "gating": gating,
        }

    verdict = {
        "metrics": [
            metric("errors", "fail"),
            metric("cpu", "pass", low=0.0),
            metric("cpu_worst_host", "pass"),
            metric("latency_worst_host", "fail"),
            metric("latency_tail", "inconclusive", gating=False),
            metric("throughput", "inconclusive"),
        ]
    }
    assert [one["name"] for one in verdicts.shown(verdict)] == ["cpu", "latency_worst_host", "throughput"]
