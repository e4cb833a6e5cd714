# SPDX-License-Identifier: Apache-2.0
"""What serves TLS on this host, and whether the kernel could ever take part in it.

OpenSSL and GnuTLS pass keys to the kernel only where they own the socket. A program that moves the bytes itself, with
a memory BIO or its own push and pull functions, never gets kTLS, whatever the configuration says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from . import haproxy, processes, textfile
from .commands import Runner
from .errors import KtlsError
from .known_bad import version_of
from .processes import TlsProcess

SIDECAR_UNIT = "ktls-sidecar.service"
_SIDECAR_FILES = ("/etc/systemd/system/ktls-sidecar.service", "/usr/lib/systemd/system/ktls-sidecar.service")
_NGINX = ("/usr/sbin/nginx", "/usr/local/nginx/sbin/nginx", "/usr/local/sbin/nginx")
_NGINX_SINCE = (1, 21, 4)


@dataclass(frozen=True)
class Program:
    """What is known of a program: ``pattern`` is for the file name of its executable."""

    pattern: str
    ktls: str
    why: str
    link: str


#: First match counts. ``never`` only with a source that names the mechanism.
PROGRAMS = (
    Program(
        r"(apache2|httpd)\Z",
        "never",
        "mod_ssl gives OpenSSL a BIO of its own that writes into Apache's filters",
        "https://github.com/apache/httpd/blob/trunk/modules/ssl/ssl_engine_io.c",
    ),
    Program(
        r"curl\Z",
        "never",
        "curl gives OpenSSL a BIO of its own",
        "https://github.com/curl/curl/issues/17085",
    ),
    Program(
        r"node(js)?\Z",
        "never",
        "Node.js gives OpenSSL memory BIOs",
        "https://github.com/nodejs/node/blob/main/src/crypto/crypto_bio.cc",
    ),
    Program(
        r"qemu-.*\Z",
        "never",
        "QEMU gives GnuTLS its own push and pull functions",
        "https://gitlab.com/qemu-project/qemu/-/blob/master/crypto/tlssession.c",
    ),
    Program(
        r"(postgres|psql|pg_(dump|dumpall|restore|basebackup|receivewal|recvlogical|isready))\Z",
        "breaks",
        "PostgreSQL up to 17 gives OpenSSL a BIO that takes kernel TLS and then goes around it: TLS connections fail",
        "https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/libpq/be-secure-openssl.c",
    ),
    Program(
        r"haproxy\Z",
        "unknown",
        "HAProxy has a BIO of its own; from 3.3 it can do kTLS by itself (ktls on, experimental), before it never can",
        "https://docs.haproxy.org/3.3/configuration.html",
    ),
    Program(
        r"(python|pypy)[0-9.]*\Z",
        "unknown",
        "blocking sockets of Python's ssl can, asyncio never: it uses memory BIOs",
        "https://docs.python.org/3/library/ssl.html",
    ),
    Program(
        r"lighttpd\Z",
        "possible",
        "mod_openssl uses kTLS by itself since 1.4.68, whatever OPENSSL_CONF says; datapath service switches it",
        "https://github.com/lighttpd/lighttpd1.4/blob/master/src/mod_openssl.c",
    ),
    Program(
        r"(imap|pop3|submission|managesieve)-login\Z|lmtp\Z",
        "never",
        "Dovecot gives OpenSSL one end of a BIO pair and moves the bytes itself",
        "https://github.com/dovecot/core/blob/main/src/lib-ssl-iostream/iostream-openssl.c",
    ),
    Program(
        r"nginx\Z",
        "possible",
        "from 1.21.4, with 'ssl_conf_command Options KTLS' and sendfile",
        "https://nginx.org/en/docs/http/ngx_http_ssl_module.html",
    ),
)


@dataclass(frozen=True)
class Datapath:
    """``kind`` is ``sidecar``, ``nginx`` or ``service``. ``unit`` is ``None`` for what no service runs.

    ``ktls`` is ``possible``, ``never``, ``unknown`` or ``breaks`` (what a policy that asks for kernel TLS would do to
    it), and ``why`` says why; ``link`` leads to the source.
    """

    kind: str
    name: str
    unit: str | None
    program: str | None
    version: str | None
    libraries: tuple[str, ...]
    processes: int
    ktls: str
    why: str
    link: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "libraries": list(self.libraries)}


def probe(root: str = "/", runner: Runner | None = None) -> tuple[Datapath, ...]:
    """Read the host. Starts ``nginx -V`` and ``haproxy -vv`` where they are."""
    found = processes.probe(root)
    installed = any(textfile.read(root, path) is not None for path in _SIDECAR_FILES)
    nginx = next((path for path in _NGINX if textfile.present(root, path)), None)
    proxy = next((path for path in haproxy.PROGRAMS if textfile.present(root, path)), None)
    runner = runner or Runner()
    nginx_says = _says((nginx, "-V"), runner) if nginx else None
    return assemble(found, installed, nginx, nginx_says, _says((proxy, "-vv"), runner) if proxy else None)


def assemble(
    found: Iterable[TlsProcess],
    sidecar_installed: bool,
    nginx: str | None,
    nginx_says: str | None,
    haproxy_says: str | None = None,
) -> tuple[Datapath, ...]:
    """Return the datapaths, the sidecar first, then nginx, then services by name. Pure."""
    grouped: dict[tuple[str, str | None], list[TlsProcess]] = {}
    for process in found:
        grouped.setdefault((process.program, process.unit), []).append(process)
    sidecars = sum(len(group) for (_, unit), group in grouped.items() if unit == SIDECAR_UNIT)
    paths = []
    if sidecar_installed or sidecars:
        why = "transmit-only and userspace, switched for new connections without a restart"
        paths.append(
            Datapath("sidecar", "ktls-sidecar", SIDECAR_UNIT, None, None, ("openssl",), sidecars, "possible", why, None)
        )
    units = sorted(unit for (program, unit) in grouped if nginx and unit and _base(program) == "nginx")
    if nginx:
        running = sum(len(group) for (program, _), group in grouped.items() if _base(program) == "nginx")
        # Its own unit rather than another's, and the same one each time.
        unit = "nginx.service" if "nginx.service" in units else next(iter(units), None)
        paths.append(_nginx(nginx, nginx_says or "", unit, running))
    services = [
        _service(program, unit, group, haproxy_says)
        for (program, unit), group in grouped.items()
        if unit != SIDECAR_UNIT and not (nginx and _base(program) == "nginx")
    ]
    return (*paths, *sorted(services, key=lambda path: (path.name, path.program or "")))


def parse_nginx(text: str) -> dict[str, str | bool | None]:
    """Return ``version``, ``openssl`` (the one it runs with) and ``ssl`` from ``nginx -V``."""
    version = re.search(r"nginx version: \S+?/(\d+(?:\.\d+)+)", text, re.ASCII)
    library = re.search(r"running with OpenSSL (\S+)", text) or re.search(r"built with OpenSSL (\S+)", text)
    return {
        "version": version[1] if version else None,
        "openssl": library[1] if library else None,
        "ssl": "--with-http_ssl_module" in text,
    }


def _nginx(path: str, says: str, unit: str | None, running: int) -> Datapath:
    parsed = parse_nginx(says)
    version, openssl = str(parsed["version"] or ""), str(parsed["openssl"] or "")
    program = next(known for known in PROGRAMS if re.match(known.pattern, "nginx"))
    ktls, why = "possible", program.why
    if not version:
        ktls, why = "unknown", "nginx -V did not tell its version"
    elif not parsed["ssl"]:
        ktls, why = "never", "built without --with-http_ssl_module"
    elif not openssl or version_of(openssl) < (3, 0, 0):
        ktls, why = "never", f"it runs with {'OpenSSL ' + openssl if openssl else 'another TLS library than OpenSSL'}"
    else:
        if version_of(version) < _NGINX_SINCE:
            why = f"nginx {version} is older than 1.21.4: a policy reaches it, but it has no SSL_sendfile"
        if version_of(openssl) >= (3, 2, 0):
            why += f"; with OpenSSL {openssl} transmit and receive go together"
    return Datapath("nginx", "nginx", unit, path, version or None, ("openssl",), running, ktls, why, program.link)


def _service(program: str, unit: str | None, group: list[TlsProcess], haproxy_says: str | None) -> Datapath:
    libraries = tuple(sorted({library for process in group for library in process.libraries}))
    known = next((entry for entry in PROGRAMS if re.match(entry.pattern, _base(program))), None)
    if known:
        ktls, why, link = known.ktls, known.why, known.link
    else:
        ktls, link = "unknown", None
        why = "it depends on whether the program leaves its sockets to the library; ss -tie shows it after the switch"
    version = None
    if haproxy_says is not None and _base(program) == "haproxy":
        build = haproxy.parse(haproxy_says)
        version, (ktls, why) = build.version, haproxy.verdict(build)
    name = unit or _base(program)
    return Datapath("service", name, unit, program, version, libraries, len(group), ktls, why, link)


def _base(program: str) -> str:
    return program.rpartition("/")[2]


def _says(argv: tuple[str, str], runner: Runner) -> str:
    try:
        result = runner.run(argv)
    except KtlsError:
        return ""
    return result.stderr + result.stdout
