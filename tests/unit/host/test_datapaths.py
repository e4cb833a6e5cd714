# SPDX-License-Identifier: Apache-2.0
"""What serves TLS, and who can never use kernel TLS: from what processes map and nginx says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import datapaths
from ktls_host.commands import CommandResult, Runner
from ktls_host.datapaths import PROGRAMS, Datapath
from ktls_host.errors import KtlsError
from ktls_host.processes import TlsProcess

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

NGINX = "/usr/sbin/nginx"
SAYS = (
    "nginx version: nginx/1.26.3\nbuilt with OpenSSL 3.0.20 7 Apr 2026\nconfigure arguments: --with-http_ssl_module\n"
)


def process(program: str, unit: str | None = None, pid: int = 1, *libraries: str) -> TlsProcess:
    return TlsProcess(pid, program, unit, libraries or ("openssl",))


def only(*found: TlsProcess) -> Datapath:
    (path,) = datapaths.assemble(found, False, None, None)
    return path


# What nginx says


def test_nginx_of_debian_12() -> None:
    """Its library was updated since it was built, so both are named: the one it runs with counts."""
    said = systems.text("debian12", "nginx-V.txt")
    assert datapaths.parse_nginx(said) == {"version": "1.22.1", "openssl": "3.0.19", "ssl": True}
    (path,) = datapaths.assemble([], False, NGINX, said)
    assert (path.kind, path.version, path.ktls, path.processes, path.unit) == ("nginx", "1.22.1", "possible", 0, None)
    assert "receive" not in path.why


def test_nginx_of_debian_13() -> None:
    """From OpenSSL 3.2 on there is no transmit alone for nginx."""
    said = systems.text("debian13", "nginx-V.txt")
    assert datapaths.parse_nginx(said) == {"version": "1.26.3", "openssl": "3.5.7", "ssl": True}
    (path,) = datapaths.assemble([], False, NGINX, said)
    assert (path.ktls, "transmit and receive go together" in path.why) == ("possible", True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("nginx version: openresty/1.25.3.1\nbuilt with OpenSSL 3.0.13\n", ("1.25.3.1", "3.0.13", False)),
        ("nginx version: nginx/1.24.0 (Ubuntu)\nbuilt with OpenSSL 3.0.13 30 Jan 2024\n", ("1.24.0", "3.0.13", False)),
        ("nginx version: nginx/1.20.1\nbuilt with OpenSSL 1.1.1k  FIPS 25 Mar 2021\n", ("1.20.1", "1.1.1k", False)),
        ("nginx version: nginx/1.25.1\nbuilt with LibreSSL 3.8.2\n", ("1.25.1", None, False)),
        ("nginx: command failed", (None, None, False)),
        ("", (None, None, False)),
    ],
)
def test_parse_nginx(said: str, expected: tuple[str | None, str | None, bool]) -> None:
    assert tuple(datapaths.parse_nginx(said).values()) == expected


@pytest.mark.parametrize(
    ("change", "ktls", "why"),
    [
        (("nginx/1.26.3", "nginx/1.21.4"), "possible", "from 1.21.4"),
        (("--with-http_ssl_module", ""), "never", "without --with-http_ssl_module"),
        (("OpenSSL 3.0.20", "OpenSSL 1.1.1w"), "never", "OpenSSL 1.1.1w"),
        (("OpenSSL 3.0.20 7 Apr 2026", "LibreSSL 3.8.2"), "never", "another TLS library"),
        (("OpenSSL 3.0.20 7 Apr 2026", "OpenSSL 1.1.1 (compatible; BoringSSL)"), "never", "OpenSSL 1.1.1"),
        (("OpenSSL 3.0.20", "OpenSSL 3.2.0"), "possible", "go together"),
        (("nginx version: ", ""), "unknown", "did not tell its version"),
    ],
)
def test_nginx_builds(change: tuple[str, str], ktls: str, why: str) -> None:
    assert change[0] in SAYS
    (path,) = datapaths.assemble([], False, NGINX, SAYS.replace(*change))
    assert (path.ktls, why in path.why) == (ktls, True), path.why
    assert path.program == NGINX and path.link


def test_an_older_nginx_is_not_called_impossible() -> None:
    """It leaves its sockets to OpenSSL like every nginx, only without SSL_sendfile: a policy reaches it."""
    (path,) = datapaths.assemble([], False, NGINX, SAYS.replace("nginx/1.26.3", "nginx/1.18.0"))
    assert path.ktls == "possible" and "1.21.4" in path.why


@given(st.text())
def test_parse_nginx_never_raises(text: str) -> None:
    datapaths.assemble([], False, NGINX, text)
    assert set(datapaths.parse_nginx(text)) == {"version", "openssl", "ssl"}


# Who is what


@pytest.mark.parametrize(
    ("program", "ktls", "why"),
    [
        ("/usr/sbin/apache2", "never", "mod_ssl"),
        ("/usr/sbin/httpd", "never", "mod_ssl"),
        ("/usr/bin/curl", "never", "BIO of its own"),
        ("/usr/bin/node", "never", "memory BIOs"),
        ("/usr/bin/nodejs", "never", "memory BIOs"),
        ("/usr/bin/qemu-system-x86_64", "never", "push and pull"),
        ("/usr/bin/qemu-nbd", "never", "push and pull"),
        ("/usr/lib/postgresql/17/bin/postgres", "breaks", "goes around it"),
        ("/usr/lib/postgresql/17/bin/pg_dump", "breaks", "goes around it"),
        ("/usr/sbin/pgbouncer", "unknown", "ss -tie"),
        ("/usr/sbin/haproxy", "unknown", "3.3"),
        ("/usr/bin/python3.13", "unknown", "asyncio"),
        ("/usr/bin/pypy3", "unknown", "asyncio"),
        ("/usr/sbin/lighttpd", "possible", "1.4.68"),
        ("/usr/sbin/httpd2", "unknown", "ss -tie"),
        ("/usr/bin/curlew", "unknown", "ss -tie"),
        ("/opt/nodeexporter/node_exporter", "unknown", "ss -tie"),
        ("/usr/sbin/stunnel4", "unknown", "ss -tie"),
        ("unknown", "unknown", "ss -tie"),
    ],
)
def test_programs(program: str, ktls: str, why: str) -> None:
    path = only(process(program, "some.service"))
    assert (path.kind, path.name, path.ktls, why in path.why) == ("service", "some.service", ktls, True), path.why
    assert (path.link is None) == ("ss -tie" in path.why)


@pytest.mark.parametrize("known", PROGRAMS, ids=lambda known: known.pattern)
def test_each_entry_is_sound(known: datapaths.Program) -> None:
    assert re.compile(known.pattern) and known.pattern.endswith(r"\Z")
    assert known.ktls in ("possible", "never", "unknown", "breaks")
    assert known.why and "\n" not in known.why and not known.why.endswith(".")
    assert re.fullmatch(r"https://[^/]+/\S+", known.link), "a page, not only a site"


def test_never_needs_a_source_that_names_the_mechanism() -> None:
    for known in PROGRAMS:
        if known.ktls == "never":
            assert re.search(r"BIO|push and pull", known.why)


def test_processes_of_one_unit_are_one_datapath() -> None:
    found = [process("/usr/sbin/apache2", "apache2.service", pid) for pid in range(6)]
    found.append(TlsProcess(7, "/usr/sbin/apache2", "apache2.service", ("gnutls",)))
    path = only(*found)
    assert (path.processes, path.libraries, path.version) == (7, ("gnutls", "openssl"), None)


def test_two_units_of_one_program_are_two() -> None:
    found = [process("/usr/sbin/stunnel4", "b.service"), process("/usr/sbin/stunnel4", "a.service"), process("/bin/x")]
    assert [path.name for path in datapaths.assemble(found, False, None, None)] == ["a.service", "b.service", "x"]


def test_a_process_without_a_unit_is_named_after_its_program() -> None:
    path = only(process("/opt/app/bin/serve"))
    assert (path.name, path.unit, path.program) == ("serve", None, "/opt/app/bin/serve")


def test_sidecar_installed_but_not_running() -> None:
    (path,) = datapaths.assemble([], True, None, None)
    assert (path.kind, path.unit, path.processes, path.ktls) == ("sidecar", "ktls-sidecar.service", 0, "possible")


def test_sidecar_is_not_also_a_python_service() -> None:
    found = [process("/usr/bin/python3.13", "ktls-sidecar.service", pid) for pid in (5, 6)]
    for installed in (True, False):
        (path,) = datapaths.assemble(found, installed, None, None)
        assert (path.kind, path.processes) == ("sidecar", 2)


def test_order() -> None:
    found = [process("/usr/sbin/apache2", "apache2.service"), process(NGINX, "nginx.service"), process("/bin/a")]
    found.append(process("/usr/bin/python3", "ktls-sidecar.service"))
    paths = datapaths.assemble(found, True, NGINX, SAYS)
    assert [path.kind for path in paths] == ["sidecar", "nginx", "service", "service"]
    assert [path.name for path in paths] == ["ktls-sidecar", "nginx", "a", "apache2.service"]


def test_nginx_that_is_running() -> None:
    found = [process(NGINX, "nginx.service", pid) for pid in (1, 2, 3)]
    (path,) = datapaths.assemble(found, False, NGINX, SAYS)
    assert (path.processes, path.unit) == (3, "nginx.service")


def test_the_unit_of_nginx_does_not_hang_on_the_order_of_processes() -> None:
    """A second one in a container has no unit here; the answer must be the same each time."""
    found = [process(NGINX, "nginx.service", 1), process(NGINX, None, 2), process(NGINX, "web.service", 3)]
    units = {datapaths.assemble(order, False, NGINX, SAYS)[0].unit for order in permutations(found)}
    assert units == {"nginx.service"}


def test_the_unit_of_nginx_does_not_hang_on_hash_seeds() -> None:
    """Sets of text are ordered anew in each process (PYTHONHASHSEED)."""
    code = (
        "from ktls_host import datapaths as d; from ktls_host.processes import TlsProcess as P\n"
        "print(d.assemble([P(n, '/usr/sbin/nginx', u, ()) for n, u in enumerate(['b.service', None, 'a.service'])],"
        " False, '/usr/sbin/nginx', '')[0].unit)"
    )
    agent = str(Path(datapaths.__file__).parents[1])
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": agent, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(6)
    }
    assert said == {"a.service\n"}


def test_nginx_elsewhere_is_a_service() -> None:
    """Only an nginx where packages and builds put it is asked with -V."""
    path = only(process("/opt/nginx/nginx", "edge.service"))
    assert (path.kind, path.ktls, path.name) == ("service", "possible", "edge.service")


# Reading a host


class Says(Runner):
    """Plays nginx -V."""

    def __init__(self, answer: CommandResult | KtlsError) -> None:
        """Keep what to answer."""
        self.answer = answer
        self.asked: list[Any] = []

    def run(self, argv: Any, stdin: str | None = None) -> CommandResult:
        """Answer, and note what was asked."""
        self.asked.append(tuple(argv))
        if isinstance(self.answer, KtlsError):
            raise self.answer
        return self.answer


def put(root: Path, path: str) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()


@pytest.mark.parametrize("place", ["/usr/sbin/nginx", "/usr/local/nginx/sbin/nginx", "/usr/local/sbin/nginx"])
def test_nginx_is_asked_where_it_is(tmp_path: Path, place: str) -> None:
    put(tmp_path, place)
    runner = Says(CommandResult(0, "", SAYS))
    (path,) = datapaths.probe(str(tmp_path), runner)
    assert runner.asked == [(place, "-V")]
    assert (path.kind, path.program, path.version) == ("nginx", place, "1.26.3")


def test_no_nginx_is_not_asked(tmp_path: Path) -> None:
    runner = Says(CommandResult(0, "", SAYS))
    assert datapaths.probe(str(tmp_path), runner) == () and runner.asked == []


@pytest.mark.parametrize(
    "answer",
    [KtlsError("command_timeout", "x"), KtlsError("command_missing", "x"), CommandResult(1, "", "no such lib")],
)
def test_an_nginx_that_does_not_answer_is_unknown(tmp_path: Path, answer: CommandResult | KtlsError) -> None:
    put(tmp_path, NGINX)
    (path,) = datapaths.probe(str(tmp_path), Says(answer))
    assert (path.ktls, path.version) == ("unknown", None)


@pytest.mark.parametrize("directory", ["/etc/systemd/system", "/usr/lib/systemd/system"])
def test_the_sidecar_is_found_by_its_unit_file(tmp_path: Path, directory: str) -> None:
    put(tmp_path, f"{directory}/ktls-sidecar.service")
    assert [path.kind for path in datapaths.probe(str(tmp_path), Says(KtlsError("x", "y")))] == ["sidecar"]


@pytest.mark.parametrize("system", systems.RECORDED)
def test_recorded_systems(tmp_path: Path, system: str) -> None:
    paths = datapaths.probe(systems.tree(system, tmp_path), Says(KtlsError("x", "y")))
    assert [(path.name, path.ktls) for path in paths] == [
        ("ktls-recording-gnutls.service", "unknown"),
        ("ktls-recording-openssl.service", "unknown"),
    ]
    assert [path.as_dict()["libraries"] for path in paths] == [["gnutls"], ["openssl"]]
    assert json.loads(json.dumps([path.as_dict() for path in paths])) == [path.as_dict() for path in paths]
