# SPDX-License-Identifier: Apache-2.0
"""The text form, read back by the parser of prometheus_client, and what is left out of it."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ktls_agent.metrics.families import collect
from ktls_agent.metrics.family import Family, Sample
from ktls_agent.metrics.text import number, render, unite

from .example import NOW_S, SNAPSHOT, USE, status

# Prometheus takes any character in a label's value; Python's parser strips blanks around a line's parts.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_LABELS = st.dictionaries(st.sampled_from(["process", "name", "cipher", "x_1"]), _TEXT, max_size=3)
_NUMBER = st.one_of(st.floats(), st.integers(-(10**20), 10**20))


def family(kind: str, name: str, samples: Sequence[Sample]) -> Family:
    return Family(name, kind, "What it is.", tuple(samples))


def back(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every series of ``text``, by name and labels; empty labels are none."""
    found = {}
    for parsed in text_string_to_metric_families(text):
        for sample in parsed.samples:
            labels = frozenset(item for item in sample.labels.items() if item[1])
            assert (sample.name, labels) not in found
            found[sample.name, labels] = sample.value
    return found


def same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or one == other


@given(st.lists(st.tuples(_LABELS, _NUMBER), max_size=8))
def test_what_is_written_is_read_back(samples: list[tuple[dict[str, str], float]]) -> None:
    made = [Sample(value, labels) for labels, value in samples]
    united, faults = unite([family("gauge", "ktls_thing", made)])
    read = back(render(united))
    wanted: dict[frozenset[tuple[str, str]], float] = {}
    for labels, value in samples:  # the first of two with the same labels counts
        wanted.setdefault(frozenset(item for item in labels.items() if item[1]), float(value))
    assert len(faults) == len(samples) - len(wanted)
    assert set(read) == {("ktls_thing", labels) for labels in wanted}
    assert all(same(read["ktls_thing", labels], value) for labels, value in wanted.items())


@given(st.permutations([family("gauge", f"ktls_{n}", [Sample(n, {"a": v}) for v in "zyx"]) for n in range(4)]))
def test_order_does_not_depend_on_who_came_first(families: list[Family]) -> None:
    united, _ = unite(families)
    assert [f.name for f in united] == ["ktls_0", "ktls_1", "ktls_2", "ktls_3"]
    assert render(united).splitlines()[2:5] == [f'ktls_0{{a="{value}"}} 0' for value in "xyz"]


@given(st.text(max_size=40))
def test_help_stays_on_its_line(text: str) -> None:
    shown = render([Family("ktls_x", "gauge", text, (Sample(1),))])
    assert shown.count("\n") == 3
    (parsed,) = text_string_to_metric_families(shown)
    assert parsed.documentation.split() == text.encode("utf-8", "replace").decode().split()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"), (1.0, "1"), (0.1, "0.1"), (-2.5, "-2.5"), (True, "1"), (2**53, "9007199254740992"),
        (float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN"), (1e300, "1e+300"),
    ],
)  # fmt: skip
def test_numbers(value: float, written: str) -> None:
    assert number(value) == written


def test_any_byte_of_a_program_name_can_be_shown() -> None:
    text = render(
        [family("gauge", "ktls_x", [Sample(1, {"process": b'a\xff\n"\\'.decode("utf-8", "surrogateescape")})])]
    )
    assert 'process="a?\\n\\"\\\\"' in text
    text.encode()


def histogram(labels: dict[str, str], *buckets: tuple[str, float], total: float = 3, end: bool = True) -> list[Sample]:
    samples = [Sample(count, {**labels, "le": bound}, "_bucket") for bound, count in buckets]
    return [*samples, Sample(total, labels, "_count"), *([Sample(0.6, labels, "_sum")] if end else [])]


GOOD = histogram({"phase": "a"}, ("+Inf", 3), ("0.5", 2), ("0.05", 1), ("10", 3))


def test_histogram_is_in_order_and_reads_back() -> None:
    united, faults = unite([family("histogram", "ktls_step_seconds", [*GOOD, *histogram({"phase": "b"}, ("+Inf", 3))])])
    text = render(united)
    assert faults == []
    assert [line.split()[0] for line in text.splitlines()[2:8]] == [
        'ktls_step_seconds_bucket{le="0.05",phase="a"}',
        'ktls_step_seconds_bucket{le="0.5",phase="a"}',
        'ktls_step_seconds_bucket{le="10",phase="a"}',
        'ktls_step_seconds_bucket{le="+Inf",phase="a"}',
        'ktls_step_seconds_sum{phase="a"}',
        'ktls_step_seconds_count{phase="a"}',
    ]
    assert back(text)["ktls_step_seconds_count", frozenset({("phase", "b")})] == 3


@pytest.mark.parametrize(
    "bad",
    [
        histogram({}, ("1", 3)),
        histogram({}, ("1", 4), ("+Inf", 3)),
        histogram({}, ("1", 1), ("+Inf", 2)),
        histogram({}, ("x", 1), ("+Inf", 3)),
        histogram({}, ("nan", 1), ("+Inf", 3)),
        histogram({}, ("-inf", 3)),
        histogram({}, ("1", 1), ("1.0", 1), ("+Inf", 3)),
        histogram({}, ("+Inf", 3), end=False),
        [Sample(3, {}, "_count"), Sample(1, {}, "_sum")],
    ],
)
def test_half_a_histogram_is_left_out_and_the_whole_one_stays(bad: list[Sample]) -> None:
    united, faults = unite([family("histogram", "ktls_step_seconds", [*GOOD, *bad])])
    assert len(faults) == 1
    assert united[0].samples == unite([family("histogram", "ktls_step_seconds", GOOD)])[0][0].samples


@pytest.mark.parametrize(
    "bad",
    [
        family("gauge", "1x", [Sample(1)]),
        family("gauge", "ktls_é", [Sample(1)]),
        family("counter", "ktls_count", [Sample(1)]),
        family("gauge", "ktls_x_total", [Sample(1)]),
        family("gauge", "ktls_x_bucket", [Sample(1)]),
        family("summary", "ktls_x", [Sample(1)]),
        family("counter", "ktls_x_total", [Sample(-1)]),
        family("counter", "ktls_x_total", [Sample(float("nan"))]),
        family("gauge", "ktls_x", [Sample(1, {"a-b": "c"})]),
        family("gauge", "ktls_x", [Sample(1, {"__name__": "c"})]),
        family("gauge", "ktls_x", [Sample(1, {"le": "1"})]),
        family("gauge", "ktls_x", [Sample(1, {}, "_sum")]),
        family("histogram", "ktls_x", [Sample(1)]),
        family("counter", "ktls_good", [Sample(1)]),
    ],
)
def test_what_breaks_the_format_is_left_out_and_named(bad: Family) -> None:
    good = family("gauge", "ktls_good", [Sample(7)])
    united, faults = unite([good, bad])
    assert len(faults) == 1
    assert faults[0].startswith(bad.name)
    assert back(render(united)) == {("ktls_good", frozenset()): 7}


def test_two_parts_may_fill_one_family() -> None:
    one, two = (family("gauge", "ktls_part_up", [Sample(1, {"part": name})]) for name in "ab")
    united, faults = unite([one, two, one])
    assert len(united[0].samples) == 2
    assert faults == ["ktls_part_up: the same labels twice"]


def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "make prepare installs it"
    for snapshot in (SNAPSHOT, None):
        united, faults = unite(collect(status(), snapshot, USE, {"metrics": True}, NOW_S))
        assert faults == []
        text = render([*united, *unite([family("histogram", "ktls_step_seconds", GOOD)])[0]])
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_promtool_would_have() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input="ktls_x_total 1\nktls_x_total 1\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
