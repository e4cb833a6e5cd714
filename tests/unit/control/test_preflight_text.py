# SPDX-License-Identifier: Apache-2.0
"""The view: worst first, nothing cut off, readable for one host and for thousands."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from ktls_control.preflight import Preflight, Unanswered, summarise
from ktls_control.preflight_screen import draw
from ktls_control.preflight_text import FEW, lines, plain
from ktls_control.request import PHASES

from .test_preflight import Info, info, reason

PATH = "/etc/modprobe.d/a-rather-long-name-of-a-file-that-somebody-made.d/blacklist-of-protocols.conf"
CURE = "remove the rule and run depmod"


def mixed() -> dict[str, Any]:
    """Twelve hosts, four kinds of trouble."""
    missing = {n: reason("tls_module_missing", f"kernel 6.8.{n} has no module tls", "install it") for n in range(2)}
    blocked = reason("module_blocked", f"loading module tls is blocked by {PATH}", CURE)
    note = reason("key_update_breaks_tx", "a client's new keys end the connection", "use kernel 6.14")
    hosts: dict[str, Any] = {f"web{n}": info(notes=(note,) if n > 1 else ()) for n in range(1, 7)}
    hosts |= {"web7": info("refused", missing[0]), "web8": info("refused", missing[1])}
    hosts |= {"db1": info("refused", blocked), "db2": info("refused", blocked, missing[0])}
    hosts |= {"cache1": Unanswered("cut_off", "no route"), "cache2": Unanswered("no_answer", "no python")}
    return hosts


def show(fleet: Preflight, width: int = 80, *, hosts: bool = False) -> list[str]:
    return [plain(line) for line in lines(fleet, width, hosts=hosts)]


def many(count: int) -> Preflight:
    kinds = list(mixed().values())
    return summarise("tx", {f"web{n}.dc{n % 7}.example.org": kinds[n * 7 % 12] for n in range(count)})


def test_the_whole_of_a_small_fleet() -> None:
    assert show(summarise("tx", mixed()), 72)[:30] == [
        "  userspace    6 ready    4 refused    2 unknown",
        "> tx           6 ready    4 refused    2 unknown",
        "  rx           6 ready    4 refused    2 unknown",
        "  hw           6 ready    4 refused    2 unknown",
        "",
        "refused  2 hosts: web[7-8]",
        "  tls_module_missing",
        "    because  kernel 6.8.0 has no module tls [1 host]",
        "             kernel 6.8.1 has no module tls [1 host]",
        "    cure     install it",
        "    see      docs/diagnostics.md#tls_module_missing",
        "",
        "refused  1 host: db1",
        "  module_blocked",
        "    because  loading module tls is blocked by",
        f"             {PATH}",
        f"    cure     {CURE}",
        "    see      docs/diagnostics.md#module_blocked",
        "",
        "refused  1 host: db2",
        "  module_blocked",
        "    because  loading module tls is blocked by",
        f"             {PATH}",
        "    cure     as above",
        "  tls_module_missing",
        "    because  kernel 6.8.0 has no module tls",
        "    cure     as above",
        "",
        "unknown  1 host: cache1",
        "  cut_off",
    ]


def test_then_the_ready_ones_what_to_know_and_a_row_for_each() -> None:
    said = show(summarise("tx", mixed()), 120)
    rest = said[said.index("ready  6 hosts: web[1-6]") :]
    assert rest[:8] == [
        "ready  6 hosts: web[1-6]",
        "",
        "good to know before tx",
        "  key_update_breaks_tx",
        "    on       5 hosts: web[2-6]",
        "    note     a client's new keys end the connection",
        "    cure     use kernel 6.14",
        "    see      docs/diagnostics.md#key_update_breaks_tx",
    ]
    assert rest[9].split() == ["host", *PHASES, "kernel", "openssl", "system", "gnutls", "why"]
    rows = [row.split() for row in rest[10:22]]
    names = ["db1", "db2", "web7", "web8", "cache1", "cache2", *(f"web{n}" for n in range(1, 7))]
    assert [row[0] for row in rows] == names, "worst first"
    assert rows[1][-2:] == ["module_blocked,", "tls_module_missing"]
    assert rows[4] == ["cache1", "?", "?", "?", "?", "cut_off"]
    assert rows[6] == ["web1", *["yes"] * 4, "6.12.48", "3.5.1", "debian", "13", "3.8.9"]
    assert rest[22:] == ["", "6 of 12 hosts ready for tx"]


@pytest.mark.parametrize("width", [72, 80, 120, 160, 250])
@pytest.mark.parametrize("fleet", [summarise("tx", mixed()), many(300), many(1)], ids=["12", "300", "1"])
def test_lines_keep_to_the_width_and_end_without_blanks(fleet: Preflight, width: int) -> None:
    for line in show(fleet, width, hosts=True):
        assert line == line.rstrip()
        assert len(line) <= width or PATH in line


def test_no_hosts_are_shown_as_such() -> None:
    assert show(summarise("tx", {}))[-1] == "0 of 0 hosts ready for tx"


def test_many_wordings_are_counted_not_listed() -> None:
    hosts = {f"h{n}": info("refused", reason("x", f"kernel {n}")) for n in range(30)}
    said = show(summarise("tx", hosts))
    assert sum("kernel" in line and "[1 host]" in line for line in said) == 3
    assert "             and 27 other messages" in said
    few = show(summarise("tx", dict(list(hosts.items())[:4])))
    assert sum("kernel" in line and "[1 host]" in line for line in few) == 4, "one more is shown, not counted"


def test_each_wording_is_followed_by_its_own_cure() -> None:
    hosts = {n: info("refused", reason("blocked", f"by {n}.conf", f"edit {n}.conf")) for n in "ab"}
    said = [line.split("  ")[-1].strip() for line in show(summarise("tx", hosts))]
    wanted = ["by a.conf [1 host]", "edit a.conf", "by b.conf [1 host]", "edit b.conf"]
    assert [line for line in said if ".conf" in line] == wanted


@pytest.mark.parametrize(
    ("count", "asked", "rows"), [(FEW, False, True), (FEW + 1, False, False), (FEW + 1, True, True)]
)
def test_rows_are_for_small_fleets_or_on_request(count: int, asked: bool, rows: bool) -> None:
    said = show(many(count), 160, hosts=asked)
    assert any(line.startswith("host ") for line in said) == rows


def test_thousands_of_hosts_are_a_screenful_and_quick() -> None:
    started = time.process_time()
    fleet = many(5000)
    out = io.StringIO()
    draw(Console(file=out, width=80), fleet)
    assert time.process_time() - started < 2
    said = out.getvalue().splitlines()
    assert len(said) < 80
    assert said[-1] == "2,500 of 5,000 hosts ready for tx"
    assert any("more" in line for line in said)


def test_a_pipe_gets_no_colours_and_the_same_words() -> None:
    fleet = summarise("tx", mixed())
    out = io.StringIO()
    draw(Console(file=out, width=100), fleet)
    assert out.getvalue().splitlines() == show(fleet, 100)


def test_a_terminal_gets_colours_and_a_bar_without_markup_of_hosts() -> None:
    hosts: dict[str, Info] = {"a": info("refused", reason("x", "[red]not markup[/red]"))}
    out = io.StringIO()
    draw(
        Console(file=out, width=100, force_terminal=True, color_system="standard", _environ={}), summarise("tx", hosts)
    )
    assert "\x1b[" in out.getvalue()
    assert "━" * 24 in out.getvalue()
    assert "[red]not markup[/red]" in out.getvalue()


def test_no_color_is_obeyed() -> None:
    out = io.StringIO()
    draw(Console(file=out, width=100, force_terminal=True, no_color=True), summarise("tx", mixed()))
    assert "━" not in out.getvalue(), "a bar says nothing without colours"


def test_whatever_is_not_zero_is_seen_in_the_bar() -> None:
    hosts: dict[str, Any] = {f"h{n}": info() for n in range(1000)}
    hosts["bad"] = info("refused", reason("x"))
    line = next(lines(summarise("tx", hosts), 80, bar=True))
    assert line[-2:] == (("━" * 23, "green"), ("━", "red"))
