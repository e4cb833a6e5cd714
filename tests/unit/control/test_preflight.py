# SPDX-License-Identifier: Apache-2.0
"""What a fleet's answers mean: groups, counts, and that no host is lost or counted twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_control.preflight import VERDICTS, Preflight, Unanswered, host_row, summarise
from ktls_control.request import PHASES

Info = dict[str, Any]
CODES = ("module_blocked", "openssl_too_old", "tls_module_missing")


def reason(code: str, message: str = "it is so", cure: str = "mend it") -> dict[str, str]:
    return {"code": code, "message": message, "cure": cure, "link": f"docs/diagnostics.md#{code}"}


def info(verdict: str = "ready", *reasons: dict[str, str], notes: tuple[dict[str, str], ...] = ()) -> Info:
    """An answer with the same verdict for every phase."""
    judged = {"verdict": verdict, "reasons": list(reasons), "notes": list(notes)}
    return {
        "kernel": "6.12.48",
        "distribution": {"id": "debian", "version_id": "13"},
        "openssl": {"version": "OpenSSL 3.5.1 1 Jul 2025", "number": 1},
        "gnutls": {"version": "3.8.9"},
        "nics": [{"name": "eth0", "driver": "virtio_net", "features": {}}],
        "datapaths": [{"name": "nginx", "kind": "nginx", "ktls": "possible", "why": "x"}],
        "cpu": {"online": 8, "busy": 0.25},
        "phases": dict.fromkeys(PHASES, judged),
    }


def shape(fleet: Preflight) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(group.verdict, group.codes, group.hosts) for group in fleet.groups]


def test_worst_first_then_the_larger_group_then_by_code() -> None:
    fleet = summarise(
        "tx",
        {
            "ok1": info(),
            "ok2": info(),
            "ok3": info(),
            "gone": Unanswered("cut_off", "no route"),
            "b": info("refused", reason("b_code")),
            "a": info("refused", reason("a_code")),
            "big1": info("refused", reason("z_code"), reason("y_code")),
            "big2": info("refused", reason("y_code"), reason("z_code")),
        },
    )
    assert shape(fleet) == [
        ("refused", ("y_code", "z_code"), ("big1", "big2")),
        ("refused", ("a_code",), ("a",)),
        ("refused", ("b_code",), ("b",)),
        ("unknown", ("cut_off",), ("gone",)),
        ("ready", (), ("ok1", "ok2", "ok3")),
    ]
    assert (fleet.ready, fleet.all_ready, fleet.summary) == (3, False, "3 of 8 hosts ready for tx")
    assert fleet.unanswered == ("gone",)


def test_messages_that_differ_by_host_are_one_reason_with_counts() -> None:
    def missing(kernel: str) -> Info:
        return info("refused", reason("tls_module_missing", f"kernel {kernel} has no module tls"))

    fleet = summarise("tx", {"a": missing("6.1"), "b": missing("6.8"), "c": missing("6.8")})
    (group,) = fleet.groups
    (finding,) = group.reasons
    assert [(variant.message, variant.hosts) for variant in finding.variants] == [
        ("kernel 6.8 has no module tls", 2),
        ("kernel 6.1 has no module tls", 1),
    ]


def test_a_host_with_two_reasons_of_one_code_is_one_host() -> None:
    two = info("refused", reason("nic", "eth0 cannot"), reason("nic", "eth1 cannot"), reason("nic", "eth0 cannot"))
    (group,) = summarise("tx", {"a": two}).groups
    assert (group.codes, group.hosts) == (("nic",), ("a",))
    assert [(variant.message, variant.hosts) for variant in group.reasons[0].variants] == [
        ("eth0 cannot", 1),
        ("eth1 cannot", 1),
    ]


def test_each_message_keeps_its_own_cure() -> None:
    fleet = summarise(
        "tx",
        {
            "a": info("refused", reason("blocked", "by a.conf", "edit a.conf")),
            "b": info("refused", reason("blocked", "by b.conf", "edit b.conf")),
        },
    )
    assert [(v.message, v.cure) for v in fleet.groups[0].reasons[0].variants] == [
        ("by a.conf", "edit a.conf"),
        ("by b.conf", "edit b.conf"),
    ]


def test_notes_are_of_ready_hosts_and_the_most_frequent_first() -> None:
    often, rarely, refused = reason("often"), reason("a_rare_one"), reason("of_a_refused_host")
    fleet = summarise(
        "tx",
        {
            "a": info(notes=(often, rarely)),
            "b": info(notes=(often,)),
            "c": info("refused", reason("x"), notes=(refused,)),
        },
    )
    assert [(note.code, note.hosts) for note in fleet.notes] == [("often", ("a", "b")), ("a_rare_one", ("a",))]


def test_only_the_phase_asked_for_decides() -> None:
    answer = info()
    answer["phases"] = {**answer["phases"], "hw": {"verdict": "refused", "reasons": [reason("nic")], "notes": []}}
    assert summarise("tx", {"a": answer}).all_ready
    assert not summarise("hw", {"a": answer}).all_ready
    assert summarise("tx", {"a": answer}).counts["hw"] == {"ready": 0, "refused": 1, "unknown": 0}


def test_no_hosts_are_not_all_ready() -> None:
    assert not summarise("tx", {}).all_ready


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"phases": None},
        {"phases": {"tx": "ready"}},
        {"phases": {"tx": {"verdict": "yes"}}},
        {"phases": {"tx": {"verdict": ["ready"]}}},
        {"phases": {"userspace": {"verdict": "ready"}}},
    ],
)
def test_an_answer_without_a_verdict_is_unknown_and_never_ready(broken: Info) -> None:
    fleet = summarise("tx", {"a": broken})
    assert shape(fleet) == [("unknown", ("no_answer",), ("a",))]
    assert "no verdict on phase tx" in fleet.groups[0].reasons[0].variants[0].message


@pytest.mark.parametrize(
    "lists", [{}, {"reasons": None, "notes": 7}, {"reasons": ["text", None, 3], "notes": {"a": 1}}]
)
def test_lists_of_another_shape_hold_nothing(lists: Info) -> None:
    row = host_row({"phases": {"tx": {"verdict": "ready", **lists}}, "openssl": None, "nics": "none", "datapaths": 3})
    assert (row.phases["tx"].reasons, row.phases["tx"].notes) == ((), ())
    assert (row.openssl, row.gnutls, row.nics, row.datapaths) == (None, None, (), ())


def test_an_older_result_without_a_link_has_none() -> None:
    old = {"code": "x", "message": "m", "cure": "c"}
    assert summarise("tx", {"a": info("refused", old)}).groups[0].reasons[0].link is None


@pytest.mark.parametrize("evil", ["\x1b[2J\x1b]0;owned\x07", "a\nb", "\u202egnp.exe", "\x00", "\x9b31m"])
def test_what_a_host_says_reaches_no_terminal_as_it_is(evil: str) -> None:
    said = {"code": evil, "message": evil, "cure": evil, "link": evil}
    answer = info("refused", said, notes=(said,))
    answer.update(kernel=evil, gnutls={"version": evil})
    text = json.dumps(summarise("tx", {"a": answer}).as_dict(), ensure_ascii=False)
    assert text.isprintable()


def test_a_very_long_message_is_cut() -> None:
    (group,) = summarise("tx", {"a": info("refused", reason("x", "y" * 10_000))}).groups
    assert len(group.reasons[0].variants[0].message) < 1000


def test_json_form() -> None:
    fleet = summarise(
        "tx",
        {
            "web10": Unanswered("no_answer", "the probe failed: no python"),
            "web2": info("refused", reason("tls_module_missing", "none", "install one")),
            "web1": info(notes=(reason("often"),)),
        },
    )
    form = fleet.as_dict()
    assert json.loads(json.dumps(form)) == form
    assert (form["phase"], form["ready"], form["total"]) == ("tx", 1, 3)
    assert form["phases"]["tx"] == {"ready": 1, "refused": 1, "unknown": 1}
    assert list(form["phases"]) == list(PHASES)
    assert form["groups"][0] == {
        "verdict": "refused",
        "codes": ["tls_module_missing"],
        "hosts": ["web2"],
        "reasons": [
            {
                "code": "tls_module_missing",
                "cure": "install one",
                "link": "docs/diagnostics.md#tls_module_missing",
                "messages": [{"message": "none", "cure": "install one", "hosts": 1}],
            }
        ],
    }
    assert form["groups"][1]["reasons"][0]["link"] == "docs/diagnostics.md#no_answer"
    assert [(note["code"], note["hosts"]) for note in form["notes"]] == [("often", ["web1"])]
    assert list(form["hosts"]) == ["web1", "web2", "web10"], "as people count"
    assert form["hosts"]["web1"] == {
        "verdict": "ready",
        "phases": {key: {"verdict": "ready", "reasons": [], "notes": ["often"]} for key in PHASES},
        "kernel": "6.12.48",
        "distribution": {"id": "debian", "version_id": "13"},
        "openssl": "OpenSSL 3.5.1 1 Jul 2025",
        "gnutls": "3.8.9",
        "nics": [{"name": "eth0", "driver": "virtio_net"}],
        "datapaths": [{"name": "nginx", "kind": "nginx", "ktls": "possible"}],
        "cpu": {"online": 8, "busy": 0.25},
    }
    lost = form["hosts"]["web10"]
    assert (lost["verdict"], lost["kernel"], lost["phases"]["hw"]["reasons"]) == ("unknown", None, ["no_answer"])


reasons = st.lists(
    st.builds(reason, st.sampled_from(CODES), st.sampled_from(["one", "two"]), st.sampled_from(["mend", "replace"])),
    max_size=3,
)
answers = st.one_of(
    st.builds(Unanswered, st.sampled_from(["cut_off", "no_answer"]), st.text(max_size=5)),
    st.builds(lambda v, r, n: info(v, *r, notes=tuple(n)), st.sampled_from(VERDICTS), reasons, reasons),
)
names = st.from_regex(r"(web|db)[0-9]{1,3}", fullmatch=True)
fleets = st.dictionaries(names, answers, max_size=12)


@given(fleets, st.sampled_from(PHASES))
def test_every_host_is_in_exactly_one_group_and_counts_add_up(hosts: dict[str, Any], phase: str) -> None:
    fleet = summarise(phase, hosts)
    placed = Counter(name for group in fleet.groups for name in group.hosts)
    assert placed == Counter(dict.fromkeys(hosts, 1))
    assert all(sum(counts.values()) == len(hosts) for counts in fleet.counts.values())
    for verdict in VERDICTS:
        members = [group for group in fleet.groups if group.verdict == verdict]
        assert sum(len(group.hosts) for group in members) == fleet.counts[phase][verdict]
    assert len({(group.verdict, group.codes) for group in fleet.groups}) == len(fleet.groups)
    for group in fleet.groups:
        assert tuple(finding.code for finding in group.reasons) == group.codes
        for finding in group.reasons:
            assert finding.hosts == group.hosts
            assert all(variant.hosts <= len(group.hosts) for variant in finding.variants)
            assert sum(variant.hosts for variant in finding.variants) >= len(group.hosts)


@given(st.data(), fleets, st.sampled_from(PHASES))
def test_the_order_of_answers_does_not_matter(data: st.DataObject, hosts: dict[str, Any], phase: str) -> None:
    shuffled = dict(data.draw(st.permutations(list(hosts.items()))))
    first, second = summarise(phase, hosts).as_dict(), summarise(phase, shuffled).as_dict()
    assert json.dumps(first) == json.dumps(second)
    ranks = [VERDICTS.index(group["verdict"]) for group in first["groups"]]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("cpu", "said"),
    [
        ({"online": 4, "busy": 1}, (4, 1.0)),
        ({"online": 0, "busy": 1.5}, (None, None)),
        ({"online": -1, "busy": -0.1}, (None, None)),
        ({"online": "8", "busy": float("nan")}, (None, None)),
        ({"online": True, "busy": False}, (None, None)),
        ({"online": float("inf"), "busy": None}, (None, None)),
        (None, (None, None)),
        ("many", (None, None)),
    ],
)
def test_cpus_are_believed_as_far_as_they_can_be(cpu: Any, said: tuple[Any, Any]) -> None:
    row = host_row({**info(), "cpu": cpu})
    assert (row.cpus, row.busy) == said
