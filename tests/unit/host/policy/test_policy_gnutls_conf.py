# SPDX-License-Identifier: Apache-2.0
"""GnuTLS' configuration gets one setting more, and the GnuTLS of this machine reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_host.commands import Runner
from ktls_host.errors import KtlsError
from ktls_host.policy import ask, gnutls_conf
from ktls_host.policy.gnutls_conf import ASK, MARK

PATH = "/etc/gnutls/config"

SAYS = {
    "nothing": ("", None),
    "true": ("[global]\nktls = true\n", True),
    "false": ("[global]\nktls = false\n", False),
    "case": ("[GLOBAL]\nKTLS = True\n", True),
    "colon": ("[global]\nktls : true\n", True),
    "no spaces": ("[global]\nktls=true", True),
    "last wins": ("[global]\nktls = true\nktls = false\n", False),
    "two sections": ("[global]\nktls = false\n[overrides]\n[global]\nktls = true\n", True),
    "other section": ("[overrides]\nktls = true\n", None),
    "before any section": ("ktls = true\n", None),
    "comments": ("# ktls = true\n; ktls = true\n[global]\n#ktls = true\n", None),
    "comment behind": ("[global]\nktls = true ; or not\n", True),
    "word behind": ("[global]\nktls = true # or not\n", True),
    "neither": ("[global]\nktls = maybe\n", None),
    "continued": ("[global]\noverride-mode = blocklist\n ktls = true\n", None),
    "indented": ("[global]\n  ktls = true\n", True),
    "byte order mark": ("\ufeff[global]\nktls = true\n", True),
}


@pytest.mark.parametrize(("text", "said"), SAYS.values(), ids=SAYS)
def test_what_it_says(text: str, said: bool | None) -> None:
    assert gnutls_conf.asks(text, PATH) is said


@pytest.mark.parametrize(
    ("text", "line"),
    [("[global]\nktls\n", 2), ("[global\nktls = true\n", 1), ("\n\nword\n", 3)],
    ids=["no equal sign", "open header", "word"],
)
def test_what_gnutls_cannot_read_is_refused(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(KtlsError, match=f"{PATH} line {line}: ") as caught:
        gnutls_conf.with_ktls(text, PATH)
    assert caught.value.code == "malformed_config"
    (tmp_path / "config").write_text(text)
    assert "unable to parse" in (ask.gnutls(Runner(), str(tmp_path / "config")).problem or "")


@pytest.mark.parametrize(("text", "said"), SAYS.values(), ids=SAYS)
@pytest.mark.parametrize("mark", [True, False])
def test_afterwards_it_asks(text: str, said: bool | None, mark: bool) -> None:
    after = gnutls_conf.with_ktls(text, PATH, mark)
    assert gnutls_conf.asks(after, PATH) is True
    assert gnutls_conf.ours(after) is (mark and said is not True)
    assert gnutls_conf.with_ktls(after, PATH, mark) == after
    if said is True:
        assert after == text


def test_where_it_goes() -> None:
    assert gnutls_conf.with_ktls("", PATH) == f"{MARK}\n[global]\n{ASK}\n"
    assert gnutls_conf.with_ktls("[global]\na = b\n", PATH) == f"[global]\n{MARK}\n{ASK}\na = b\n"
    assert gnutls_conf.with_ktls("[x]\na = b", PATH) == f"[x]\na = b\n{MARK}\n[global]\n{ASK}\n"
    replaced = gnutls_conf.with_ktls("[global]\nktls = false\nc = d\n", PATH)
    assert replaced == f"[global]\n{MARK}\n{ASK}\nc = d\n"


def test_an_indented_line_is_not_made_a_part_of_ours() -> None:
    """Below a setting, an indented line continues it."""
    text = "[global]\n override-mode = blocklist\n"
    after = gnutls_conf.with_ktls(text, PATH)
    assert after.startswith(text)
    assert [line.name for line in gnutls_conf.parse(after, PATH)] == ["override-mode", "ktls"]


def test_lines_stay_short() -> None:
    """The copy of inih in GnuTLS reads a line of more than 199 bytes as two."""
    assert max(len(line) for line in (MARK, ASK)) < 199


lines = st.sampled_from(
    [
        *(
            "[global]",
            "[GLOBAL]",
            " [overrides]",
            "[priorities]",
            "ktls = false",
            "ktls=true",
            " ktls : false",
            "a = b",
        ),
        *("  a = b", "", "# c", "x = y ; ktls = true", "ktls = maybe"),
    ]
)


@settings(max_examples=500)
@given(st.lists(lines, max_size=8).map("\n".join))
def test_all_other_settings_stay(text: str) -> None:
    try:
        before = gnutls_conf.parse(text, PATH)
    except KtlsError:
        return
    after = gnutls_conf.with_ktls(text, PATH)
    assert gnutls_conf.asks(after, PATH) is True

    def others(found: list[gnutls_conf.Line]) -> list[tuple[str, str, str]]:
        return [(line.section, line.name, line.value) for line in found if line.name.lower() != "ktls"]

    assert others(gnutls_conf.parse(after, PATH)) == others(before)
