# SPDX-License-Identifier: Apache-2.0
"""Ask the libraries themselves what they make of a configuration file, each time in a fresh process.

Both libraries read their configuration once, so a process that has done it already cannot tell. The programs for the
child are text: when a module runs through Ansible no file of ours is on the host.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..commands import CommandResult, Runner
from ..errors import KtlsError

SSL_OP_ENABLE_KTLS = 1 << 3  # include/openssl/ssl.h, OpenSSL 3.0 and later
#: What would make a library look elsewhere, or load something else (openssl-env(7)).
_FOREIGN = ("OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_ENGINES", "OPENSSL_MODULES", "GNUTLS_SYSTEM_PRIORITY_FILE")

# The strict load comes first and in a process of its own: it reports what the default load keeps to itself, and a
# second load would trip over the objects that the first one made.
_OPENSSL = r"""
import ctypes, json, os, sys

def say(**facts):
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()

try:
    crypto, tls = ctypes.CDLL("libcrypto.so.3"), ctypes.CDLL("libssl.so.3")
except OSError as error:
    say(missing=str(error))
    sys.exit(0)
crypto.OpenSSL_version.restype = ctypes.c_char_p
crypto.ERR_get_error_all.restype = ctypes.c_ulong
crypto.ERR_reason_error_string.restype = ctypes.c_char_p
crypto.ERR_reason_error_string.argtypes = [ctypes.c_ulong]
crypto.CONF_modules_load_file.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong]
for name in ("TLS_server_method", "SSL_CTX_new"):
    getattr(tls, name).restype = ctypes.c_void_p
tls.SSL_CTX_new.argtypes = tls.SSL_CTX_get_options.argtypes = [ctypes.c_void_p]
tls.SSL_CTX_get_options.restype = ctypes.c_uint64
tls.OPENSSL_init_ssl.argtypes = [ctypes.c_uint64, ctypes.c_void_p]

def complaints():
    found = []
    while True:
        data, flags = ctypes.c_char_p(), ctypes.c_int()
        code = crypto.ERR_get_error_all(None, None, None, ctypes.byref(data), ctypes.byref(flags))
        if not code:
            return found
        text = (crypto.ERR_reason_error_string(code) or b"unknown").decode()
        found.append(text + (": " + data.value.decode("utf-8", "replace").strip() if data.value else ""))

text = [crypto.OpenSSL_version(number).decode("ascii", "replace") for number in (0, 4)]
say(version=text[0], directory=text[1])
child = os.fork()
if child == 0:
    tls.OPENSSL_init_ssl(0x80, None)
    loaded = crypto.CONF_modules_load_file(None, None, 0x20 | 0x10)
    say(complaints=complaints() if loaded <= 0 else [])
    os._exit(0)
os.waitpid(child, 0)
initialised = tls.OPENSSL_init_ssl(0x40, None)
say(initialised=bool(initialised), said=complaints())
context = tls.SSL_CTX_new(tls.TLS_server_method())
say(context=bool(context), options=tls.SSL_CTX_get_options(context) if context else 0, refusal=complaints())
try:
    import ssl
except ImportError:
    sys.exit(0)
try:
    say(python=int(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).options))
except Exception as error:
    say(python_refusal=str(error))
"""

_GNUTLS = r"""
import ctypes, json, sys

try:
    library = ctypes.CDLL("libgnutls.so.30")
except OSError as error:
    sys.stdout.write(json.dumps({"missing": str(error)}) + "\n")
    sys.exit(0)
library.gnutls_priority_init.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
library.gnutls_strerror.restype = ctypes.c_char_p
codes = {}
for priority in (b"NORMAL", b"@SYSTEM"):
    place = ctypes.c_void_p()
    codes[priority.decode()] = library.gnutls_priority_init(ctypes.byref(place), priority, None)
sys.stdout.write(json.dumps({"started": library.gnutls_global_init() == 0, "priorities": codes}) + "\n")
"""


@dataclass(frozen=True)
class OpensslAnswer:
    """What OpenSSL 3 made of a file. ``version`` is ``None`` when there is no libssl.so.3.

    ``directory`` is OPENSSLDIR. ``options`` are those of a fresh server context, ``None`` when there was none.
    ``complaints`` are those of a strict load; ``problem`` is why programs would not start, ``None`` when they do.
    """

    version: str | None = None
    directory: str | None = None
    options: int | None = None
    complaints: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def ktls(self) -> bool:
        """True when every new context asks for kernel TLS."""
        return bool((self.options or 0) & SSL_OP_ENABLE_KTLS)


@dataclass(frozen=True)
class GnutlsAnswer:
    """What GnuTLS made of a file. ``present`` is false when there is no libgnutls.so.30.

    ``priorities`` maps priority strings to what gnutls_priority_init(3) returned; ``problem`` as above.
    """

    present: bool = False
    priorities: tuple[tuple[str, int], ...] = ()
    problem: str | None = None


def openssl(runner: Runner, config: str | None, *, programs: bool = True) -> OpensslAnswer:
    """Ask with ``config`` as OPENSSL_CONF; ``None`` leaves the library to its own file.

    ``programs``: start OpenSSL's own program with it, too, where there is one.
    """
    settings = () if config is None else (f"OPENSSL_CONF={config}",)
    result = _child(runner, settings, (sys.executable, "-I", "-c", _OPENSSL))
    facts = _facts(result)
    if "missing" in facts or "version" not in facts:
        return OpensslAnswer()
    problem = None
    if not facts.get("initialised"):
        problem = f"libssl does not start: {_first(facts.get('said') or facts.get('complaints'), result)}"
    elif not facts.get("context"):
        problem = f"SSL_CTX_new fails: {_first(facts.get('refusal') or facts.get('complaints'), result)}"
    elif "python_refusal" in facts:
        problem = f"Python's SSLContext fails: {facts['python_refusal']}"
    for command in (("openssl", "version"), ("openssl", "ciphers")) if programs else ():
        problem = problem or _refusal(runner, settings, command)
    return OpensslAnswer(
        version=str(facts["version"]),
        directory=openssl_directory(str(facts["directory"])),
        options=int(facts["options"]) if facts.get("context") else None,
        complaints=tuple(map(str, facts.get("complaints", ()))),
        problem=problem,
    )


def gnutls(runner: Runner, config: str | None, *, programs: bool = True) -> GnutlsAnswer:
    """Ask with ``config`` as GNUTLS_SYSTEM_PRIORITY_FILE, and any error in it fatal; otherwise as above."""
    # Level 2 makes it say on stderr what it does not like (lib/priority.c).
    settings: tuple[str, ...] = ("GNUTLS_SYSTEM_PRIORITY_FAIL_ON_INVALID=1", "GNUTLS_DEBUG_LEVEL=2")
    if config is not None:
        settings += (f"GNUTLS_SYSTEM_PRIORITY_FILE={config}",)
    result = _child(runner, settings, (sys.executable, "-I", "-c", _GNUTLS))
    facts = _facts(result)
    if "missing" in facts:
        return GnutlsAnswer()
    if result.rc or not facts.get("started"):
        return GnutlsAnswer(True, (), f"libgnutls does not start: {_gnutls_said(result)}")
    priorities = tuple(sorted((str(name), int(code)) for name, code in facts["priorities"].items()))
    problem = "it refuses the priority NORMAL" if dict(priorities)["NORMAL"] else None
    if programs:
        problem = problem or _refusal(runner, settings, ("gnutls-cli", "--priority", "NORMAL", "--list"))
    return GnutlsAnswer(True, priorities, problem)


def _child(runner: Runner, settings: Sequence[str], argv: Sequence[str]) -> CommandResult:
    cleared = [word for name in _FOREIGN for word in ("-u", name)]
    return runner.run(["env", *cleared, *settings, *argv])


def _refusal(runner: Runner, settings: Sequence[str], argv: Sequence[str]) -> str | None:
    """Return why a program does not start; one that is not installed has nothing to say (env(1): exit status 127)."""
    try:
        result = _child(runner, settings, argv)
    except KtlsError as error:
        return error.message
    return None if result.rc in (0, 127) else f"'{' '.join(argv)}' fails: {_openssl_said(result)}"


def _facts(result: CommandResult) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for line in result.stdout.splitlines():
        if line.startswith("{"):
            facts.update(json.loads(line))
    return facts


def _first(complaints: Sequence[str] | None, result: CommandResult) -> str:
    return "; ".join(complaints) if complaints else result.reason


def _openssl_said(result: CommandResult) -> str:
    """Return reason and data of the first error line: ``PID:error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:DATA``."""
    for line in result.stderr.splitlines():
        fields = line.split(":", 8)
        if len(fields) == 9 and fields[1] == "error":
            return f"{fields[5]} ({fields[8].strip()})"
    return result.reason


def _gnutls_said(result: CommandResult) -> str:
    said = [line.partition(": ")[2].strip() for line in result.stderr.splitlines() if "gnutls[" in line]
    wrong = [line for line in said if "unable" in line or "unknown" in line or "fail" in line]
    return "; ".join(wrong) or result.reason


def openssl_directory(text: str) -> str | None:
    """``OPENSSLDIR: "/usr/lib/ssl"`` (OpenSSL_version(3))."""
    parts = text.split('"')
    return parts[1] if len(parts) == 3 and parts[1].startswith("/") else None
