# SPDX-License-Identifier: Apache-2.0
"""A host in a directory, for the policy lever. All of its state is in files, so that a killed process leaves it.

systemd and the processes are played; OpenSSL, GnuTLS and their programs are the real ones of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ktls_host.commands import CommandResult, Runner
from ktls_host.policy import ask, openssl_conf

FIXTURES = Path(__file__).parents[3] / "fixtures" / "host" / "policy"
_INCLUDE = re.compile(r"^(\s*\.include\s*=?\s*)(\S+)\s*$", re.MULTILINE)
_TICKS = os.sysconf("SC_CLK_TCK")

Snapshot = dict[str, tuple[Any, ...]]


class Host:
    """``root`` holds it. ``log`` are the programs that were run here, without those that only read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[str, ...]] = []
        self.systemd = True
        self.refuse_restart: Callable[[str], str | None] = lambda unit: None
        self.deaf_policies = False
        for directory in ("etc/systemd/system", "run", "proc", "var/lib"):
            (root / directory).mkdir(parents=True, exist_ok=True)

    # What is on it

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return target

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.root / path.lstrip("/"))

    def debian(self, release: str) -> None:
        target = self.write("/etc/ssl/openssl.cnf", (FIXTURES / f"{release}-openssl.cnf").read_text())
        os.utime(target, ns=(1_700_000_000_000_000_001, 1_700_000_000_000_000_001))
        link = self.root / "usr/lib/ssl/openssl.cnf"
        link.parent.mkdir(parents=True)
        link.symlink_to("/etc/ssl/openssl.cnf")

    def fedora(self) -> None:
        """OPENSSLDIR stays that of this machine: its name is compiled into the library."""
        self.write("/usr/lib/ssl/openssl.cnf", (FIXTURES / "fedora-openssl.cnf").read_text())
        self.write("/etc/crypto-policies/config", "DEFAULT\n")
        (self.root / "etc/crypto-policies/local.d").mkdir()
        shutil.copytree(FIXTURES / "crypto-policies", self.root / "usr/share/crypto-policies")
        self.write("/usr/share/crypto-policies/reload-cmds.sh", f"touch {self.root}/RELOADED\n")
        assert self._policies(("update-crypto-policies", "--no-reload")).returncode == 0

    def unit(
        self, name: str, text: str, *, libraries: Sequence[str] = (), running: bool = True, path: str | None = None
    ) -> None:
        self.write(path or f"/etc/systemd/system/{name}", text)
        state = self._state()
        state["libraries"][name] = list(libraries)
        self._save(state)
        self.reload()
        if running:
            self.start(name)

    # systemd

    def reload(self) -> None:
        state = self._state()
        state["loaded"] = {}
        for fragment in sorted((self.root / "etc/systemd/system").glob("*.service")):
            name = fragment.name
            directories = [name + ".d", "service.d"]
            if "@" in name and not name.endswith("@.service"):
                directories.append(name.partition("@")[0] + "@.service.d")
            found = {
                drop_in.name: drop_in
                for directory in directories
                for drop_in in (self.root / "etc/systemd/system" / directory).glob("*.conf")
            }
            drop_ins = [found[key] for key in sorted(found)]
            state["loaded"][name] = {
                "fragment": self._inside(fragment),
                "drop_ins": [self._inside(path) for path in drop_ins],
                "environment": _environment([path.read_text() for path in (fragment, *drop_ins)]),
            }
        self._save(state)

    def start(self, name: str, *, children: int = 1) -> None:
        """Start it now, with a main process and children, each with the libraries mapped."""
        state = self._state()
        for pid in state["pids"].pop(name, []):
            shutil.rmtree(self.root / "proc" / str(pid))
        pids = [state["next"] + at for at in range(1 + children)]
        for pid in pids:
            self.process(pid, f"/system.slice/{name}", state["libraries"].get(name, []))
        state.update(next=pids[-1] + 1)
        state["pids"][name] = pids
        self._save(state)

    def process(self, pid: int, cgroup: str, libraries: Sequence[str], started: float | None = None) -> None:
        when = time.clock_gettime(time.CLOCK_BOOTTIME) if started is None else started
        self.write(f"/proc/{pid}/cgroup", f"0::{cgroup}\n")
        fields = ["S", "1", *["0"] * 17, str(int(when * _TICKS)), "0"]
        self.write(f"/proc/{pid}/stat", f"{pid} (we) b) {' '.join(fields)}\n")
        lines = [f"7f00-7f01 r-xp 00000000 08:01 1  /usr/lib/x86_64-linux-gnu/{name}" for name in libraries]
        self.write(f"/proc/{pid}/maps", "\n".join(["5500-5501 r-xp 00000000 08:01 2  /bin/web", *lines]) + "\n")

    def loaded_environment(self, name: str) -> list[str]:
        found: list[str] = self._state()["loaded"].get(name, {}).get("environment", [])
        return found

    # What is run on it

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        command = tuple(argv)
        if command[0] == "env":
            return Runner().run([self._translated(word) for word in command])
        if command[0] == "systemctl" and self.systemd:
            return self._systemctl(command[1:])
        if command[0] == "update-crypto-policies":
            self.log.append(command)
            done = self._policies(("true",) if self.deaf_policies else command)
            return CommandResult(done.returncode, done.stdout, done.stderr)
        return CommandResult(127, "", f"{command[0]}: not found")

    def snapshot(self) -> Snapshot:
        """All that must be as it was: kind, mode, owner, content, time of every file, the target of every link."""
        found: Snapshot = {}
        for top in ("etc", "usr", "var/lib/ktls-levers"):
            for path in sorted((self.root / top).rglob("*")):
                status = path.lstat()
                entry: tuple[Any, ...] = (
                    stat.S_IFMT(status.st_mode),
                    stat.S_IMODE(status.st_mode),
                    status.st_uid,
                    status.st_gid,
                )
                if path.is_symlink():
                    entry = (*entry, os.readlink(path))
                elif path.is_file():
                    # What crypto-policies generates has the time of its generation.
                    generated = "crypto-policies" in path.parts
                    entry = (*entry, path.read_bytes(), 0 if generated else status.st_mtime_ns)
                found[str(path.relative_to(self.root))] = entry
        return found

    def _systemctl(self, words: tuple[str, ...]) -> CommandResult:
        if words[0] == "show":
            return CommandResult(0, "\n\n".join(self._show(name) for name in words[words.index("--") + 1 :]) + "\n", "")
        if words[0] == "show-environment":
            return CommandResult(0, "LANG=C.UTF-8\n", "")
        if words[0] == "list-units":
            pattern = re.escape(words[-1]).replace(r"\*", ".*")
            names = sorted(name for name in self._state()["pids"] if re.fullmatch(pattern, name))
            return CommandResult(0, "".join(f"{name} loaded active running x\n" for name in names), "")
        self.log.append(("systemctl", *words))
        if words[0] == "daemon-reload":
            self.reload()
            return CommandResult(0, "", "")
        assert words[0] == "restart"
        why = self.refuse_restart(words[-1])
        if why is not None:
            return CommandResult(1, "", why)
        self.start(words[-1])
        return CommandResult(0, "", "")

    def _show(self, name: str) -> str:
        state = self._state()
        loaded = state["loaded"].get(name) or state["loaded"].get(re.sub("@.*", "@.service", name))
        if loaded is None:
            return f"Id={name}\nLoadState=not-found\nActiveState=inactive\nMainPID=0"
        pids = state["pids"].get(name, [])
        return "\n".join(
            [
                f"MainPID={pids[0] if pids else 0}",
                f"Environment={' '.join(map(_shown, loaded['environment']))}",
                f"Id={name}",
                "LoadState=loaded",
                f"ActiveState={'active' if pids else 'inactive'}",
                f"FragmentPath={loaded['fragment']}",
                f"DropInPaths={' '.join(map(_shown, loaded['drop_ins']))}",
            ]
        )

    def _policies(self, command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        places = {
            "base_dir": str(self.root / "etc/crypto-policies"),
            "profile_dir": str(self.root / "usr/share/crypto-policies"),
        }
        program = [str(FIXTURES / command[0]), *command[1:]] if len(command) > 1 else list(command)
        return subprocess.run(program, capture_output=True, text=True, env={**os.environ, **places}, check=False)

    def _translated(self, word: str) -> str:
        """A library that is told of a file here must look for included files here, too."""
        name, equals, path = word.partition("=")
        if not equals or name not in ("OPENSSL_CONF", "GNUTLS_SYSTEM_PRIORITY_FILE") or not os.path.exists(path):
            return word
        return f"{name}={self._rooted(path, 0)}"

    def _rooted(self, path: str, depth: int) -> str:
        real = path if path.startswith(str(self.root)) else f"{self.root}{path}"
        if depth > 5 or not os.path.isfile(real):
            return real
        with open(real, encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read()
        there = _INCLUDE.sub(lambda found: found[1] + self._rooted(found[2], depth + 1), text)
        if there == text:
            return real
        copy = self.root / "translated" / f"{depth}-{os.path.basename(real)}"
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(there, errors="surrogateescape")
        return str(copy)

    def _inside(self, path: Path) -> str:
        return f"/{path.relative_to(self.root)}"

    def _state(self) -> dict[str, Any]:
        path = self.root / "run/played.json"
        if not path.exists():
            return {"loaded": {}, "pids": {}, "libraries": {}, "next": 100}
        state: dict[str, Any] = json.loads(path.read_text())
        return state

    def _save(self, state: dict[str, Any]) -> None:
        temporary = self.root / "run/played.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.root / "run/played.json")


def _environment(texts: Sequence[str]) -> list[str]:
    found: dict[str, str] = {}
    for text in texts:
        for value in re.findall(r"^Environment=(.*)$", text, re.MULTILINE):
            for word in shlex.split(value):
                name, _, assigned = word.partition("=")
                found[name] = assigned.replace("%%", "%")
    return [f"{name}={value}" for name, value in found.items()]


def _shown(word: str) -> str:
    if re.search(r'[\s"\\]', word):
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return word


def ask_quickly(root: Path) -> Callable[..., ask.OpensslAnswer | ask.GnutlsAnswer]:
    """Return what answers in place of the libraries, by our own reading of the files under ``root``."""

    def read(path: str) -> bytes | None:
        real = Path(path if path.startswith(str(root)) else f"{root}{path}")
        return real.read_bytes() if real.is_file() else None

    def answer(backend: str, config: str, runner: object, **other: bool) -> ask.OpensslAnswer | ask.GnutlsAnswer:
        if backend == "gnutls":
            return ask.GnutlsAnswer(True, (("NORMAL", 0),))
        found = openssl_conf.parse(config, read, lambda path: None)
        section = found.sections.get(openssl_conf.chain(found).default or "", {})
        words = [value for name, value in section.items() if name.rpartition(".")[2] == "Options"]
        return ask.OpensslAnswer(
            "OpenSSL 3.0.0", "/usr/lib/ssl", ask.SSL_OP_ENABLE_KTLS if words[-1:] == ["KTLS"] else 0
        )

    return answer
