# SPDX-License-Identifier: Apache-2.0
"""A played host, as for the policy lever, whose processes show their environment and program, and with a lighttpd."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ktls_host.commands import CommandResult, Runner
from ktls_host.service import lighttpd

if TYPE_CHECKING:
    from tests.unit.host.policy import policyhost
else:
    sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
    import policyhost


class ServiceHost(policyhost.Host, Runner):
    """``titles``: units whose program overwrites its environment. ``options``: what lighttpd's own file sets.

    ``slow``: a start returns before the program runs, see :meth:`exec`.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.titles: set[str] = set()
        self.slow = False
        self.options: str | None = None
        self.condition = False
        self.tried: list[str] = []

    def serve(self, unit: str, program: str, library: str) -> None:
        """Have a unit that runs ``program`` with ``library``."""
        programs = self._programs()
        programs[unit] = program
        self.write("/run/programs.json", json.dumps(programs))
        self.unit(unit, f"[Service]\nExecStart={program}\n", libraries=(library,))

    def start(self, name: str, *, children: int = 1) -> None:
        super().start(name, children=children)
        given = "".join(f"{word}\0" for word in [*self.loaded_environment(name), "INVOCATION_ID=1", "PATH=/bin"])
        for pid in self._state()["pids"][name]:
            self.write(f"/proc/{pid}/environ", "worker process\0" if name in self.titles else given)
            program = self._programs().get(name, "/bin/other")
            (self.root / f"proc/{pid}/exe").symlink_to("/usr/lib/systemd/systemd-executor" if self.slow else program)
            if self.slow:
                self.write(f"/proc/{pid}/maps", "")
                self.write(f"/proc/{pid}/environ", "LISTEN_FDS=1\0")

    def exec(self, name: str) -> None:
        """Let what systemd has started become the program."""
        self.slow = False
        self.start(name)

    def stop(self, name: str) -> None:
        """As systemctl stop."""
        state = self._state()
        for pid in state["pids"].pop(name):
            for path in sorted((self.root / f"proc/{pid}").rglob("*"), reverse=True):
                path.unlink()
            (self.root / f"proc/{pid}").rmdir()
        self._save(state)

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        words = list(argv)
        if lighttpd.PROGRAM in words:
            return self._lighttpd(words)
        return super().run(argv, stdin)

    @property
    def restarts(self) -> list[str]:
        """Units that were restarted, in order."""
        return [words[-1] for words in self.log if words[1] == "restart"]

    def _lighttpd(self, words: list[str]) -> CommandResult:
        """What lighttpd 1.4.69 says with ``-tt`` and ``-p`` (recorded), for the options that are set."""
        value = next((word.partition("=")[2] for word in words if word.startswith(lighttpd.VARIABLE + "=")), "-KTLS")
        read = words[-1]
        ours = read != lighttpd.CONFIG or lighttpd.adopted(str(self.root))
        if read != lighttpd.CONFIG:
            self.tried.append(Path(read).read_text())
        if ours and self.options is not None:
            return CommandResult(255, "", "Duplicate array-key 'Options'\n(configfile.c.2164) parser failed\n")
        if "-tt" in words:
            return CommandResult(0, "", "")
        shown = value if ours else self.options
        return CommandResult(0, printed(shown, self.condition), "")

    def _programs(self) -> dict[str, str]:
        path = self.root / "run/programs.json"
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found


def printed(options: str | None, condition: bool = False) -> str:
    """Return what ``lighttpd -p`` prints (recorded from 1.4.79), as far as it is about us."""
    lines = ["config {", "    server.port              = 443", '    server.modules           = ("mod_openssl")']
    if options is not None:
        lines += ["    ssl.openssl.ssl-conf-cmd = (", '        "MinProtocol" => "TLSv1.2",']
        lines += [f'        "Options"     => "{options}",', "    )", ""]
    lines += ["", '    if $SERVER["socket"] == "0.0.0.0:443" {', "        # block 1", '        ssl.engine = "enable"']
    if condition:
        lines += ['        ssl.openssl.ssl-conf-cmd = ("MinProtocol" => "TLSv1.3")']
    return "\n".join([*lines, "", '    } # end of $SERVER["socket"] == "0.0.0.0:443"', "}"]) + "\n"


def pids(host: ServiceHost, unit: str) -> list[int]:
    """The processes of a unit."""
    found: list[int] = host._state()["pids"].get(unit, [])
    return found


def age(host: ServiceHost, unit: str, started: float) -> None:
    """Let the processes of a unit have started at another time, in seconds since boot."""
    ticks = int(started * os.sysconf("SC_CLK_TCK"))
    for pid in pids(host, unit):
        fields = ["S", "1", *["0"] * 17, str(ticks), "0"]
        host.write(f"/proc/{pid}/stat", f"{pid} (we) b) {' '.join(fields)}\n")
