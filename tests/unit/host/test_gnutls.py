# SPDX-License-Identifier: Apache-2.0
"""GnuTLS is asked itself; its configuration is read as it reads it, which it can be asked about as well."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import gnutls, isolated
from ktls_host.gnutls import GnutlsState

if TYPE_CHECKING:
    from tests.unit.host import systems
else:
    import systems

RECORDINGS = sorted((systems.DIRECTORY.parent / "gnutls").glob("*.json"))
WITH = {"hardware-features": "padlock pkcs11 ktls"}
WITHOUT = {"hardware-features": "padlock pkcs11"}


@pytest.mark.parametrize(
    ("system", "version"), [("debian12", "3.7.9"), ("debian13", "3.8.9"), ("debian13-backports", "3.8.9")]
)
def test_recorded_systems(tmp_path: Path, system: str, version: str) -> None:
    """Debian's builds have no kTLS, and nothing is configured."""
    said = json.loads(systems.text(system, "gnutls.json"))
    state = gnutls.judge(said["version"], said["config"], None, said["file"])
    assert state == GnutlsState(gnutls.LIBRARY, version, False, "/etc/gnutls/config", None)
    assert state.as_dict() == systems.collected(system)["gnutls"]


def test_each_image_is_recorded() -> None:
    assert {path.stem for path in RECORDINGS} >= set(systems.RECORDED)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recorded_builds(path: Path) -> None:
    """Debian's own have no kTLS, the image with GnuTLS built for it has."""
    said = json.loads(path.read_text())
    assert gnutls.built_with_ktls(said["config"]) is (path.stem not in systems.RECORDED)
    assert said["version"].startswith("3.")


@pytest.mark.parametrize(
    ("version", "config", "built"),
    [
        ("3.8.9", WITH, True),
        ("3.8.9", WITHOUT, False),
        ("3.8.9", {}, False),
        ("3.8.9", {"hardware-features": "notktls ktlsnot"}, False),
        ("3.8.9", {"tls-features": "ktls"}, False),
        ("3.7.3", None, None),  # it has the function: a library that does not is odd, and nothing is known
        ("3.7.2", None, False),  # older than kernel TLS
        ("3.6.16", None, False),
        ("4.0.0", None, None),
    ],
)
def test_built(version: str, config: dict[str, str] | None, built: bool | None) -> None:
    assert gnutls.judge(version, config, None, None).ktls_built is built


@pytest.mark.parametrize(
    ("version", "built", "config", "effective"),
    [
        ("3.8.10", True, True, True),
        ("3.8.10", True, False, False),
        ("3.8.10", True, None, False),
        ("3.8.10", False, True, False),
        ("3.8.10", None, True, False),
        ("3.7.7", True, None, False),  # off unless asked for, since this release
        ("3.7.6", True, None, True),  # before, on unless forbidden
        ("3.7.3", True, True, True),
        ("3.7.6", True, False, False),
        ("3.7.6", False, None, False),
        (None, None, None, False),
    ],
)
def test_effective(version: str | None, built: bool | None, config: bool | None, effective: bool) -> None:
    """By the commit "KTLS: disable by default enable by config" of GnuTLS 3.7.7."""
    state = GnutlsState(gnutls.LIBRARY, version, built, gnutls.DEFAULT_CONFIG, config)
    assert state.effective is effective and state.as_dict()["effective"] is effective


@pytest.mark.parametrize(
    ("version", "release"),
    [("3.8.10", (3, 8, 10)), ("3.8", (3, 8)), ("3.8.1-dev+7", (3, 8, 1)), (None, (0,)), ("", (0,)), ("unknown", (0,))],
)
def test_release(version: str | None, release: tuple[int, ...]) -> None:
    assert replace(GnutlsState(), version=version).release == release


@given(st.text(), st.one_of(st.none(), st.text()))
def test_judge_never_raises(version: str, text: str | None) -> None:
    assert gnutls.judge(version, None, text, None).config_ktls in (True, False, None)


# The configuration file. Where GnuTLS itself is the judge, every setting is "ktls" and everything else is an error.

ON = [
    "[global]\nktls = true\n",
    "[global]\nktls=true",
    "[global]\nKTLS = TRUE\n",
    "[GLOBAL]\nktls = true\n",
    "[global]\nktls: true\n",
    "[global]\nktls = true ; said an operator\n",
    "[global]\nktls = true said an operator\n",
    "[global] ; ours\nktls = true\n",
    "  [global]\nktls = true\n",
    "[global]\n\t ktls = true\n",
    "# one\n; two\n\n[global]\n# three\nktls = true\n",
    "[global]\nktls = true\n  true\n",
    "[global]\r\nktls = true\r\n",
    "[global]\nktls = true\n[global]\n",
    "\ufeff[global]\nktls = true\n",
]
NOT_ON = [
    "[global]\nktls = yes\n",
    "[global]\nktls = 1\n",
    "[global]\nktls = true; glued to it\n",
    "[global]\nktls = # true\n",
    "[ global ]\nktls = true\n",
    "[global\nktls = true\n",
    "ktls = true\n[global]\nktls\n",
    "[global]\nktls true\n",
    "[global]\noverride-mode = blocklist\n  ktls = true\n",
]


def accepts(text: str, directory: Path) -> bool:
    """Whether the real library takes this file when told to refuse whatever it does not understand."""
    file = directory / "config"
    file.write_text(text, encoding="utf-8", newline="")
    code = "import ctypes; raise SystemExit(ctypes.CDLL('libgnutls.so.30').gnutls_global_init())"
    settings = {"GNUTLS_SYSTEM_PRIORITY_FILE": str(file), "GNUTLS_SYSTEM_PRIORITY_FAIL_ON_INVALID": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("text", ON)
def test_what_gnutls_takes_for_on(tmp_path: Path, text: str) -> None:
    assert accepts(text, tmp_path)
    assert gnutls.wants_ktls(text) is True


@pytest.mark.parametrize("text", NOT_ON)
def test_what_gnutls_does_not_take_for_on(tmp_path: Path, text: str) -> None:
    assert not accepts(text, tmp_path)
    assert gnutls.wants_ktls(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", None),
        ("[global]\n", None),
        ("[global]\n#ktls = true\n", None),
        ("[global]\n ; ktls = true\n", None),
        ("[priorities]\nktls = true\n", None),
        ("[overrides]\nktls = true\n[global]\nktls = false\n", False),
        ("[global]\nktls = true\nktls = false\n", False),
        ("[global]\nktls = false\n[priorities]\nSYSTEM=NORMAL\n[global]\nktls = true\n", True),
        ("[global]\nktls = true\nktls = perhaps\n", True),
        ("[global]\nktls = true\nthis line is broken\n", None),  # then the whole file does not count
    ],
)
def test_wants_ktls(text: str, wanted: bool | None) -> None:
    assert gnutls.wants_ktls(text) is wanted


@given(st.text(alphabet="[]global ktrue=fs\n;#:", max_size=80))
def test_wants_ktls_never_raises(text: str) -> None:
    assert gnutls.wants_ktls(text) in (True, False, None)


# This host


def test_this_hosts_library() -> None:
    library = ctypes.CDLL(gnutls.LIBRARY)
    library.gnutls_check_version.restype = ctypes.c_char_p
    state = gnutls.probe()
    assert state.library == gnutls.LIBRARY
    assert state.version == library.gnutls_check_version(None).decode()
    assert state.config_file and os.path.isabs(state.config_file)


def fresh(root: str, **environment: str) -> dict[str, Any]:
    """Probe in a process that has not loaded the library before: it reads its environment when it is loaded."""
    code = f"import json; from ktls_host import gnutls; print(json.dumps(gnutls.probe({root!r}).as_dict()))"
    agent = str(Path(gnutls.__file__).parents[1])
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": agent, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_configuration_that_the_environment_names(tmp_path: Path) -> None:
    """As a service with a configuration of its own has it. A library without kTLS reads it and does nothing with it."""
    file = tmp_path / "config"
    file.write_text("[global]\nktls = true\n")
    state = fresh("/", GNUTLS_SYSTEM_PRIORITY_FILE=str(file))
    assert (state["config_file"], state["config_ktls"]) == (str(file), True)
    assert state["effective"] is state["ktls_built"]


def test_the_file_is_looked_for_below_the_root(tmp_path: Path) -> None:
    usual = fresh(str(tmp_path))
    assert usual["config_ktls"] is None
    file = tmp_path / usual["config_file"].lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text("[global]\nktls = true\n")
    assert fresh(str(tmp_path)) == {**usual, "config_ktls": True, "effective": usual["ktls_built"]}


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gnutls, "LIBRARY", "libgnutls-that-is-not-there.so.9")
    state = gnutls.probe()
    assert state == GnutlsState() and not state.effective
    assert state.as_dict()["library"] is None


def crash(emit: isolated.Emit) -> None:
    faulthandler.disable()
    os.abort()


@pytest.mark.parametrize("ask", [crash, lambda emit: time.sleep(600)], ids=["crash", "hang"])
def test_a_library_that_crashes_or_hangs_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    monkeypatch.setattr(gnutls, "_ask", ask)
    monkeypatch.setattr(gnutls, "_TIMEOUT_S", 0.5)
    state = gnutls.probe()
    assert (state.library, state.version, state.ktls_built) == (gnutls.LIBRARY, None, None)
    assert not state.effective


def test_an_old_library_is_asked_only_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Function:
        def __call__(self, wanted: None) -> bytes:
            return b"3.6.16"

    class Library:
        gnutls_check_version = Function()

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    state = gnutls.probe("/nowhere")
    assert state == GnutlsState(gnutls.LIBRARY, "3.6.16", False, gnutls.DEFAULT_CONFIG, None)
