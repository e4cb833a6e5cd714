# SPDX-License-Identifier: Apache-2.0
"""openssl.cnf is read as the OpenSSL of this machine reads it, and the lines that are added do what they are for."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ktls_host.commands import Runner
from ktls_host.errors import KtlsError
from ktls_host.policy import ask, openssl_conf, openssl_text
from ktls_host.policy.openssl_conf import Chain

if TYPE_CHECKING:
    from tests.unit.host.policy import policyhost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import policyhost

RELEASES = ("debian12", "debian13", "ubuntu2204", "ubuntu2404")
MAIN = "/etc/ssl/openssl.cnf"

crypto = ctypes.CDLL("libcrypto.so.3")
for name in ("NCONF_new", "BIO_new_mem_buf", "BIO_new", "BIO_s_mem"):
    getattr(crypto, name).restype = ctypes.c_void_p
crypto.NCONF_new.argtypes = [ctypes.c_void_p]
crypto.NCONF_free.argtypes = crypto.BIO_free.argtypes = crypto.BIO_new.argtypes = [ctypes.c_void_p]
crypto.BIO_new_mem_buf.argtypes = [ctypes.c_char_p, ctypes.c_int]
crypto.NCONF_load_bio.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_long)]
crypto.NCONF_dump_bio.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
crypto.BIO_read.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]


def openssl_reads(text: bytes) -> set[str] | int:
    """What NCONF_dump_bio(3) prints, or the number of the line that OpenSSL does not understand."""
    conf = crypto.NCONF_new(None)
    source, sink = crypto.BIO_new_mem_buf(text, len(text)), crypto.BIO_new(crypto.BIO_s_mem())
    try:
        line = ctypes.c_long()
        if crypto.NCONF_load_bio(conf, source, ctypes.byref(line)) <= 0:
            return line.value
        assert crypto.NCONF_dump_bio(conf, sink) == 1
        room = ctypes.create_string_buffer(1 << 20)
        got = crypto.BIO_read(sink, room, len(room))
        return set(room.raw[: max(got, 0)].decode("utf-8", "surrogateescape").split("\n")) - {""}
    finally:
        crypto.NCONF_free(conf)
        crypto.BIO_free(source)
        crypto.BIO_free(sink)


def parse(text: str, **others: str) -> openssl_conf.Config:
    files = {MAIN: text, **{f"/{name}": content for name, content in others.items()}}
    return openssl_conf.parse(MAIN, lambda path: files[path].encode() if path in files else None, lambda path: None)


def we_read(text: str) -> set[str] | int:
    try:
        config = parse(text)
    except KtlsError as error:
        assert error.code == "malformed_config"
        assert MAIN in error.message
        return int(error.message.partition(" line ")[2].partition(":")[0])
    dumped = {f"[[{section}]]" for section in config.sections}
    return dumped | {
        f"[{section}] {name}={value}" for section, found in config.sections.items() for name, value in found.items()
    }


CASES = {
    "plain": "a = b\n[ s ]\nc = d\n",
    "empty": "",
    "no newline at the end": "[s]\na = b",
    "spaces in a header": "[   one two   ]\na=b\n",
    "section without a name": "::a = b\nc = d\n",
    "escape in a header": "[a\\]b]\nc = d\n",
    "last of equal keys": "[s]\na = 1\nb = 2\na = 3\n",
    "section twice": "[s]\na = 1\n[t]\nb = 2\n[s]\nc = 3\n",
    "back to default": "[s]\na = 1\n[default]\nb = 2\n",
    "comment": "# a = b\na = b # c\n   # d\n",
    "comment in quotes": "a = \"b # c\" # d\ne = 'f # g'\nh = `i # j`\n",
    "escaped comment": "a = b \\# c\n",
    "continued": "a = b \\\nc\nd = e\n",
    "continued comment": "# a \\\nb = c\nd = e\n",
    "escaped backslash at the end": "a = b\\\\\nc = d\n",
    "continued at the end of the file": "a = b\\\n",
    "escapes": "a = b\\tc\\bd\\xe\n",
    "quotes joined": "a = \"b\"'c'd\n",
    "quote not closed": 'a = "b c\nd = e\n',
    "dotted keys": "[s]\nx.Options = A\ny.Options = B\n",
    "variable": "a = 1\nb = $a-${a}-$(a)\n[s]\nc = $a ${default::a}\n",
    "variable of a section": "[s]\na = 1\n[t]\nb = $s::a\n",
    "unknown variable": "a = $nosuch\n",
    "brace not closed": "a = 1\nb = ${a\n",
    "section in front of the key": "s::a = 1\n[s]\nb = 2\n",
    "no equal sign": "a = b\nc d\n",
    "header not closed": "a = b\n[s\n",
    "dollar in names": ".pragma dollarid:true\na$b = 1\nc = $a\n",
    "dollar by braces": ".pragma = dollarid:on\na$b = 1\nc = ${a$b}\n",
    "bad pragma": ".pragma dollarid\n",
    "bad switch": ".pragma dollarid:perhaps\n",
    "unknown pragma": ".pragma foo:bar\na = b\n",
    "pragma as a key": ".pragmatic = x\n",
    "include of nothing": ".include /nonexistent/file\na = b\n",
    "include with equal sign": ".include = /nonexistent/file\na = b\n",
    "include without space": ".include=/nonexistent/file\na = b\n",
    "relative include forbidden": ".pragma abspath:true\n.include a.cnf\n",
    "carriage returns": "[s]\r\na = b\r\n",
    "byte order mark": "\ufeffa = b\n",
    "other letters": "ä = b\n",
    "other letters in a value": "a = ä\n",
    "equal signs": "a = b = c\n",
    "empty value": "a =\n[s]\nb = \n",
    "empty key": "= b\n",
    "blank in a key": "a b = c\n",
    "punctuation": "a;b!c%d&e*f+g,h-i.j/k?l@m^n|o~p_q = r\n",
}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_it_reads_what_openssl_reads(text: str) -> None:
    assert we_read(text) == openssl_reads(text.encode())


@pytest.mark.parametrize("release", RELEASES)
def test_it_reads_whole_files_like_openssl(release: str) -> None:
    text = (policyhost.FIXTURES / f"{release}-openssl.cnf").read_text()
    found = we_read(text)
    assert isinstance(found, set) and len(found) > 80
    assert found == openssl_reads(text.encode())


words = st.text("ab.s:$\\\"'`#={}()[] \t-ä", max_size=8)
lines = st.one_of(
    words,
    st.builds("{} = {}".format, st.sampled_from(["a", "b", "s::a", "x.a", "a$"]), words),
    st.builds("[{}]".format, st.sampled_from(["s", " s ", "a b", "default", "x\\]"])),
    st.sampled_from(["", "#", "a = $a", "b = ${s::a}", "a = $b::a", ".pragma dollarid:true", ".include /nonexistent"]),
    st.builds("{}\\".format, words),
)


@settings(max_examples=600)
@given(st.lists(lines, max_size=8).map("\n".join), st.sampled_from(["", "\n"]))
def test_it_reads_anything_like_openssl(text: str, end: str) -> None:
    """The dump of OpenSSL has one line per value, so values with line breaks in them are left to the cases above."""
    assume("\\n" not in text and "\\r" not in text)
    ours, theirs = we_read(text + end), openssl_reads((text + end).encode())
    if isinstance(theirs, int) and (text + end).endswith("\\"):
        theirs = min(theirs, (text + end).count("\n") + 1)  # OpenSSL counts the end of the file as a line then
    assert ours == theirs


def test_includes_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a.cnf").write_text("[in]\na = 1\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one.conf").write_text("[one]\nb = 2\n")
    (tmp_path / "d" / "two.CNF").write_text("[two]\nc = 3\n")
    (tmp_path / "d" / "three.txt").write_text("broken [")
    text = f"x = 0\n.include {tmp_path}/a.cnf\ny = 1\n.include = {tmp_path}/d\n"
    text += f".pragma includedir:{tmp_path}\n.include a.cnf\n"

    def read(path: str) -> bytes | None:
        return text.encode() if path == MAIN else Path(path).read_bytes() if Path(path).is_file() else None

    def listed(path: str) -> list[str] | None:
        return [found.name for found in Path(path).iterdir()] if Path(path).is_dir() else None

    config = openssl_conf.parse(MAIN, read, listed)
    assert config.files == (MAIN, *(f"{tmp_path}/{name}" for name in ("a.cnf", "d/one.conf", "d/two.CNF", "a.cnf")))
    dumped = {
        f"[{section}] {name}={value}" for section, found in config.sections.items() for name, value in found.items()
    }
    # The section that the included file ended in goes on.
    assert "[in] y=1" in dumped
    reference = openssl_reads(text.encode())
    assert isinstance(reference, set)
    assert dumped == {line for line in reference if not line.startswith("[[")}


def test_an_error_in_an_included_file_names_that_file() -> None:
    with pytest.raises(KtlsError, match=r"/other\.cnf line 2: missing equal sign") as caught:
        parse(".include /other.cnf\n", **{"other.cnf": "a = b\nno\n"})
    assert caught.value.code == "malformed_config"


def test_files_that_include_each_other_are_no_endless_loop() -> None:
    with pytest.raises(KtlsError, match="include each other"):
        parse(".include /other.cnf\n", **{"other.cnf": f".include {MAIN}\n"})


def test_a_nul_byte_is_refused() -> None:
    with pytest.raises(KtlsError, match="line 2: a NUL byte"):
        openssl_conf.parse(MAIN, lambda path: b"a = b\nc\0 = d\n", lambda path: None)


def test_the_environment_is_for_the_program_that_will_read_it() -> None:
    config = openssl_conf.parse(MAIN, lambda path: b"a = $ENV::X-${ENV::Y}\n", lambda path: None, {"X": "1"})
    assert config.get("default", "a") == "1-"


CHAINS = {
    "nothing": ("", Chain()),
    "init": ("openssl_conf = i\n[i]\noid_section = o\n[o]\n", Chain("i")),
    "init without its section": ("openssl_conf = i\n", Chain("i")),
    "ssl": ("openssl_conf = i\n[i]\nssl_conf = s\n", Chain("i", "s")),
    "ssl by a longer key": ("openssl_conf = i\n[i]\nssl_conf.1 = s\n", Chain("i", "s")),
    "the last ssl": (
        "openssl_conf = i\n[i]\nssl_conf = s\nssl_conf.1 = t\n[s]\nserver = x\n[x]\nMinProtocol = TLSv1.2\n",
        Chain("i", "t"),
    ),
    "all": ("openssl_conf = i\n[i]\nssl_conf = s\n[s]\nsystem_default = d\n", Chain("i", "s", "d")),
    "another application": ("nodejs_conf = n\n[n]\nssl_conf = s\n[s]\nsystem_default = d\n", Chain()),
    "another default": (
        "openssl_conf = i\n[i]\nssl_conf = s\n[s]\nserver = d\n[d]\nMinProtocol = TLSv1.2\n",
        Chain("i", "s"),
    ),
    "by variable": ("x = i\nopenssl_conf = $x\n[i]\nssl_conf = $x\n", Chain("i", "i")),
}


@pytest.mark.parametrize(("text", "chain"), CHAINS.values(), ids=CHAINS)
def test_the_chain(text: str, chain: Chain) -> None:
    assert openssl_conf.chain(parse(text)) == chain


def context_options(tmp_path: Path, text: str) -> ask.OpensslAnswer:
    path = tmp_path / "asked.cnf"
    path.write_text(text)
    return ask.openssl(Runner(), str(path))


@pytest.mark.parametrize("text", [text for text, _ in CHAINS.values()], ids=CHAINS)
def test_every_missing_link_is_added_and_openssl_follows(tmp_path: Path, text: str) -> None:
    """Sections that the chain names but that are not there are made; nothing else is touched."""
    added = openssl_conf.addition(parse(text))
    answer = context_options(tmp_path, openssl_conf.with_block(text, added, MAIN))
    assert answer.ktls
    assert answer.problem is None


@pytest.mark.parametrize("release", RELEASES)
def test_distributions_as_they_come(tmp_path: Path, release: str) -> None:
    text = (policyhost.FIXTURES / f"{release}-openssl.cnf").read_text()
    before = context_options(tmp_path, text)
    config = parse(text)
    assert openssl_conf.chain(config) == Chain("openssl_init")
    added = openssl_conf.addition(config)
    after = context_options(tmp_path, openssl_conf.with_block(text, added, MAIN))
    assert (before.options or 0) | ask.SSL_OP_ENABLE_KTLS == after.options
    assert not before.ktls
    assert (before.problem, after.problem, after.complaints) == (None, None, ())


def test_a_service_includes_what_there_is(tmp_path: Path) -> None:
    """Whatever section the included file ends in, the chain starts in the default section."""
    (tmp_path / "theirs.cnf").write_text("[last]\na = b")
    added = openssl_conf.addition(parse("[last]\na = b"))
    assert added.startswith("[default]\nopenssl_conf = ")
    assert context_options(tmp_path, f".include {tmp_path}/theirs.cnf\n\n{added}").ktls
    # The control: without the header the key would belong to [last].
    assert not context_options(tmp_path, f".include {tmp_path}/theirs.cnf\n\n{added.partition(chr(10))[2]}").ktls


def test_options_that_are_there_stay() -> None:
    text = CHAINS["all"][0] + "[d]\nOptions = PrioritizeChaCha\nktls.Options = -X\n"
    added = openssl_conf.addition(parse(text))
    assert added == "[d]\nktls_.Options = KTLS\n"
    after = parse(text + added)
    assert after.sections["d"] == {
        "Options": "PrioritizeChaCha",
        "ktls.Options": "-X",
        "ktls_.Options": "KTLS",
    }


def test_a_bare_option_would_lose_the_other(tmp_path: Path) -> None:
    """Why the key has a prefix: the control."""
    text = "openssl_conf = i\n[i]\nssl_conf = s\n[s]\nsystem_default = d\n[d]\nOptions = NoRenegotiation\n"
    no_renegotiation = 1 << 30
    both = context_options(tmp_path, text + openssl_conf.addition(parse(text)))
    bare = context_options(tmp_path, text + "[d]\nOptions = KTLS\n")
    assert both.ktls and (both.options or 0) & no_renegotiation
    assert bare.ktls and not (bare.options or 0) & no_renegotiation


names = st.text("abc d.]#$\\é", min_size=1, max_size=6).filter(lambda name: name == name.strip())


@settings(max_examples=200)
@given(names, names, names)
def test_odd_names_of_sections_are_quoted(init: str, ssl: str, default: str) -> None:
    first, second, third = (openssl_text.quoted(name) for name in (init, ssl, default))
    text = f"openssl_conf = {first}\n[{first}]\nssl_conf = {second}\n[{second}]\nsystem_default = {third}\n"
    try:
        config = parse(text)
    except KtlsError:
        assume(False)  # é cannot stand in a header, quoted or not
        raise
    assert openssl_conf.chain(config) == Chain(init, ssl, default)
    after = parse(text + openssl_conf.addition(config))
    assert after.sections[default]["ktls.Options"] == "KTLS"


@settings(max_examples=200)
@given(st.lists(lines, max_size=6).map("\n".join))
def test_the_block_goes_as_it_came(text: str) -> None:
    assume("ktls-fleet" not in text)
    with_block = openssl_conf.with_block(text, "[d]\nktls.Options = KTLS\n", MAIN)
    assert with_block.startswith(text)
    assert openssl_conf.without_block(with_block, MAIN).rstrip("\n") == text.rstrip("\n")
    again = openssl_conf.with_block(with_block, "[e]\nktls.Options = KTLS\n", MAIN)
    assert again == with_block.replace("[d]\nktls", "[e]\nktls")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(lines, max_size=6).map("\n".join))
def test_whatever_the_file_the_addition_reaches_every_context(text: str) -> None:
    try:
        config = parse(text)
    except KtlsError:
        return
    found = openssl_reads(openssl_conf.with_block(text, openssl_conf.addition(config), MAIN).encode())
    assert isinstance(found, set)
    assert len([line for line in found if line.endswith(".Options=KTLS")]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(openssl_conf.END, ""),
        lambda text: text + text,
        lambda text: text.replace(openssl_conf.END, openssl_conf.END + "\n" + openssl_conf.END),
    ],
    ids=["no end", "twice", "two ends"],
)
def test_a_damaged_block_is_not_guessed_at(damage: object) -> None:
    assert callable(damage)
    text = damage(openssl_conf.with_block("a = b\n", "[d]\nktls.Options = KTLS\n", MAIN))
    with pytest.raises(KtlsError, match=r"openssl\.cnf line 3: .*damaged") as caught:
        openssl_conf.marked(text, MAIN)
    assert caught.value.code == "malformed_config"
