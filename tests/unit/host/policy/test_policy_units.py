# SPDX-License-Identifier: Apache-2.0
"""Services: their names, what systemd shows of them, and what their files make of a variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.commands import CommandResult, Runner
from ktls_host.errors import KtlsError
from ktls_host.policy import units
from ktls_host.policy.units import Unit

OWN = "/etc/systemd/system/a.service.d/zz-ktls-fleet-openssl.conf"

# From systemd 257; Environment= and DropInPaths= are quoted, FragmentPath= is not.
SHOWN = r"""Environment="OPENSSL_CONF=/etc/x/ab\\x2dc.service.cnf" "FOO=a b\"c" BAR=100%
Id=ab\x2dc.service
LoadState=loaded
ActiveState=active
MainPID=812
FragmentPath=/etc/systemd/system/ab\x2dc.service
DropInPaths="/etc/systemd/system/ab\\x2dc.service.d/x.conf" /run/systemd/system/service.d/y.conf

Environment=
Id=nosuch.service
LoadState=not-found
FragmentPath=
DropInPaths=

Environment=
Id=tt@ktls-fleet.service
LoadState=loaded
FragmentPath=/etc/systemd/system/tt@.service
DropInPaths=
"""


def test_what_systemctl_shows() -> None:
    first, second, third = units.parse_show(SHOWN)
    assert first == Unit(
        name="ab\\x2dc.service",
        load_state="loaded",
        active_state="active",
        main_pid=812,
        files=(
            "/etc/systemd/system/ab\\x2dc.service",
            "/etc/systemd/system/ab\\x2dc.service.d/x.conf",
            "/run/systemd/system/service.d/y.conf",
        ),
        environment=("OPENSSL_CONF=/etc/x/ab\\x2dc.service.cnf", 'FOO=a b"c', "BAR=100%"),
    )
    assert (second.name, second.load_state, second.files) == ("nosuch.service", "not-found", ())
    assert third.files == ("/etc/systemd/system/tt@.service",)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("nginx", "nginx.service"),
        ("nginx.service", "nginx.service"),
        ("app@one", "app@one.service"),
        ("app@", "app@.service"),
        ("app@a@b.service", "app@a@b.service"),
        ("my.app", "my.app.service"),
        (r"ab\x2dc", r"ab\x2dc.service"),
    ],
)
def test_names(given: str, name: str) -> None:
    assert units.full_name(given) == name


@pytest.mark.parametrize(
    "given",
    ["", "a b", "../a", "a/b", "nginx.socket", "ssh.target", "a\n", "ä", "@x", "--force", "a" * 250, "a;b", "$(a)"],
)
def test_what_is_no_name(given: str) -> None:
    if given == "--force":
        # A name for systemd; it is passed behind "--", so it is no option.
        assert units.full_name(given) == "--force.service"
        return
    with pytest.raises(KtlsError) as caught:
        units.full_name(given)
    assert caught.value.code == "bad_service_name"


CASES: dict[str, tuple[dict[str, str], str | None, str]] = {
    "nothing": ({"a": "[Service]\nExecStart=x\n"}, None, ""),
    "set": ({"a": "[Service]\nEnvironment=OPENSSL_CONF=/a B=c\n"}, "/a", ""),
    "quoted": ({"a": "[Service]\nEnvironment=\"OPENSSL_CONF=/a b\" 'B=c'\n"}, "/a b", ""),
    "empty": ({"a": "[Service]\nEnvironment=OPENSSL_CONF=\n"}, "", ""),
    "last wins": (
        {"a": "[Service]\nEnvironment=OPENSSL_CONF=/a\n", "b": "[Service]\nEnvironment=OPENSSL_CONF=/b\n"},
        "/b",
        "",
    ),
    "taken back": ({"a": "[Service]\nEnvironment=OPENSSL_CONF=/a\n", "b": "[Service]\nEnvironment=\n"}, None, ""),
    "other section": ({"a": "[Unit]\nEnvironment=OPENSSL_CONF=/a\n"}, None, ""),
    "comment": ({"a": "[Service]\n#Environment=OPENSSL_CONF=/a\n;Environment=OPENSSL_CONF=/a\n"}, None, ""),
    "continued": ({"a": "[Service]\nEnvironment=A=b \\\n# no\n  OPENSSL_CONF=/a\n"}, "/a", ""),
    "percent": ({"a": "[Service]\nEnvironment=OPENSSL_CONF=/a%%b\n"}, "/a%b", ""),
    "longer name": ({"a": "[Service]\nEnvironment=OPENSSL_CONF_INCLUDE=/a\n"}, None, ""),
    "specifier": ({"a": "[Service]\nEnvironment=OPENSSL_CONF=/a/%i\n"}, "/a/%i", "specifier"),
    "unset": ({"a": "[Service]\nUnsetEnvironment=A OPENSSL_CONF\n"}, None, "UnsetEnvironment="),
    "unset taken back": ({"a": "[Service]\nUnsetEnvironment=OPENSSL_CONF\nUnsetEnvironment=\n"}, None, ""),
    "root": ({"a": "[Service]\nRootDirectory=/srv/x\n"}, None, "root directory of its own (/srv/x)"),
    "root of all": ({"a": "[Service]\nRootDirectory=/\n"}, None, ""),
    "file": (
        {"a": "[Service]\nEnvironmentFile=-/env\n", "env": "A=b\n OPENSSL_CONF = /c\n"},
        None,
        "EnvironmentFile=/env",
    ),
    "file without it": (
        {"a": "[Service]\nEnvironmentFile=/env\n", "env": "#OPENSSL_CONF=/c\nXOPENSSL_CONF=1\n"},
        None,
        "",
    ),
    "file taken back": (
        {"a": "[Service]\nEnvironmentFile=/env\nEnvironmentFile=\n", "env": "OPENSSL_CONF=/c\n"},
        None,
        "",
    ),
    "files by pattern": (
        {"a": "[Service]\nEnvironmentFile=/e*\n", "env": "OPENSSL_CONF=/c\n"},
        None,
        "EnvironmentFile=/e*",
    ),
    "own drop-in does not count": (
        {"a": "[Service]\n", OWN[1:]: "[Service]\nEnvironment=OPENSSL_CONF=/own\n"},
        None,
        "",
    ),
}


@pytest.mark.parametrize(("files", "value", "obstacle"), CASES.values(), ids=CASES)
def test_what_the_files_make_of_it(tmp_path: Path, files: dict[str, str], value: str | None, obstacle: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    unit = Unit("a.service", "loaded", files=tuple(f"/{name}" for name in files if name != "env"))
    found = units.assignment(unit, "OPENSSL_CONF", OWN, {}, str(tmp_path))
    assert found.value == value
    assert (obstacle in (found.obstacle or "")) and bool(found.obstacle) == bool(obstacle)


def test_the_environment_of_all_services_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[Service]\nEnvironment=A=b\nEnvironment=\n")
    unit = Unit("a.service", "loaded", files=("/a",))
    manager = {"OPENSSL_CONF": "/of/all"}
    assert units.assignment(unit, "OPENSSL_CONF", OWN, manager, str(tmp_path)).value == "/of/all"


values = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=20).map(lambda text: f"/{text}")


@given(values)
def test_our_drop_in_says_what_was_meant(value: str) -> None:
    text = units.drop_in_text("OPENSSL_CONF", value)
    (line,) = [line for line in text.split("\n") if line.startswith("Environment=")]
    (word,) = units._words(line.partition("=")[2])
    assert word.replace("%%", "%") == f"OPENSSL_CONF={value}"


class Deaf(Runner):
    """A host without systemd, of one kind or the other."""

    def __init__(self, missing: bool) -> None:
        self.missing = missing

    def run(self, argv: object, stdin: str | None = None) -> CommandResult:
        if self.missing:
            raise KtlsError("command_missing", "the program systemctl cannot be run on this host")
        return CommandResult(1, "", "System has not been booted with systemd as init system (PID 1). Can't operate.")


@pytest.mark.parametrize("missing", [True, False])
def test_without_systemd_it_says_so(missing: bool) -> None:
    with pytest.raises(KtlsError, match="scope: system") as caught:
        units.probe(["a.service"], Deaf(missing))
    assert caught.value.code == "no_systemd"
