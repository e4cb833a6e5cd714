# SPDX-License-Identifier: Apache-2.0
"""The GnuTLS that programs on this host would load: its version, whether kTLS was compiled in, and its configuration.

A build without kTLS reads ``ktls = true`` and does nothing with it, so the library itself is asked
(gnutls_get_library_config(3), since 3.7.3: ``ktls`` stands among the hardware features of a build that has it).
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import asdict, dataclass
from typing import Any

from . import isolated, textfile
from .errors import KtlsError
from .policy import gnutls_conf

LIBRARY = "libgnutls.so.30"
DEFAULT_CONFIG = "/etc/gnutls/config"
KTLS_SINCE = (3, 7, 3)
OFF_UNLESS_ASKED_SINCE = (3, 7, 7)  # before, a build with kTLS uses it unless "ktls = false" forbids it
_FEATURES = "hardware-features"
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class GnutlsState:
    """``library`` is ``None`` when there is none. ``ktls_built`` is ``None`` when the library does not say.

    ``config_file`` is where this build looks; ``config_ktls`` is what that file says in ``[global]``: ``True``,
    ``False``, or ``None`` when it says nothing or is not there. ``effective`` is true only when both agree.
    A library that crashed or hung when it was asked has no ``version`` and no ``ktls_built``.
    """

    library: str | None = None
    version: str | None = None
    ktls_built: bool | None = None
    config_file: str | None = None
    config_ktls: bool | None = None

    @property
    def effective(self) -> bool:
        """True when a program with plain sockets would get kTLS, as far as GnuTLS decides it."""
        wanted = self.config_ktls
        if wanted is None:
            wanted = KTLS_SINCE <= self.release < OFF_UNLESS_ASKED_SINCE
        return bool(self.ktls_built and wanted)

    @property
    def release(self) -> tuple[int, ...]:
        """Return the version as numbers, (0,) when there is no library."""
        found = re.findall(r"\d+", self.version or "", re.ASCII)
        return tuple(int(number) for number in found[:3]) or (0,)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "effective": self.effective}


def probe(root: str = "/") -> GnutlsState:
    """Ask the library in a child process: loading it runs its self-tests and reads its configuration."""
    outcome = isolated.call(_ask, _TIMEOUT_S)
    if not outcome.answers:
        return GnutlsState() if outcome.done else GnutlsState(LIBRARY)
    answer = outcome.answers[0]
    return judge(
        answer["version"], answer["config"], textfile.read(root, answer["file"] or DEFAULT_CONFIG), answer["file"]
    )


def judge(version: str, config: dict[str, str] | None, text: str | None, file: str | None) -> GnutlsState:
    """Return the state from what the library and its configuration file say. Pure."""
    built = None if config is None else built_with_ktls(config)
    state = GnutlsState(LIBRARY, version, built, file or DEFAULT_CONFIG, None if text is None else wants_ktls(text))
    if built is None and state.release < KTLS_SINCE:
        return GnutlsState(LIBRARY, version, False, state.config_file, state.config_ktls)
    return state


def built_with_ktls(config: dict[str, str]) -> bool:
    """Return what gnutls_get_library_config(3) says."""
    return "ktls" in config.get(_FEATURES, "").split()


def wants_ktls(text: str) -> bool | None:
    """Return the value of ``ktls`` in ``[global]``, the last one winning; ``None`` when it is not set.

    As GnuTLS reads it, which ignores a file with a line that it cannot parse as a whole (lib/priority.c).
    """
    try:
        return gnutls_conf.asks(text, DEFAULT_CONFIG)
    except KtlsError:
        return None


class _Entry(ctypes.Structure):
    """``gnutls_library_config_st`` of gnutls.h."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


def _ask(emit: isolated.Emit) -> None:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return
    library.gnutls_check_version.restype = ctypes.c_char_p
    library.gnutls_check_version.argtypes = [ctypes.c_char_p]
    version = library.gnutls_check_version(None)
    file = None
    if hasattr(library, "gnutls_get_system_config_file"):
        library.gnutls_get_system_config_file.restype = ctypes.c_char_p
        file = library.gnutls_get_system_config_file()
    config: dict[str, str] | None = None
    if hasattr(library, "gnutls_get_library_config"):
        library.gnutls_get_library_config.restype = ctypes.POINTER(_Entry)
        entry, config = library.gnutls_get_library_config(), {}
        index = 0
        while entry[index].name:
            config[entry[index].name.decode("utf-8", "replace")] = (entry[index].value or b"").decode(
                "utf-8", "replace"
            )
            index += 1
    emit({"version": version.decode("ascii", "replace"), "config": config, "file": file.decode() if file else None})
