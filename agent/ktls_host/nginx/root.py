# SPDX-License-Identifier: Apache-2.0
"""Root's part: test the configuration, put the switch there or take it away, reload, see that it came through.

A configuration that does not pass ``nginx -t`` is never reloaded, whoever broke it: nginx would go on with the old one,
and nobody would know which. What the test says is in the error, with file and line.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .. import files, originals, textfile
from ..commands import Runner
from ..datapath import outside
from ..datapath.model import RX, TX
from ..errors import KtlsError
from ..files import FileSpec
from ..originals import Adoption
from ..probe_object import PROBE_NAME, probe_bytes
from ..reasons import Reason
from . import build, dropin, findings, syntax, workers
from .build import Build
from .dropin import PROBE_ROOT
from .findings import Site
from .settings import Settings
from .syntax import Dump
from .workers import Processes

LEVER = "nginx"
FLAGS = ("run/ktls/off", "var/lib/ktls/off", "run/ktls/lapsed")
BUSY = "run/ktls/datapath.busy"
TURN_WAIT_S = 15.0
SEEN_WITHIN_S = 20.0
_POLL_S = 0.05
_COMPLAINT = re.compile(r"\[(?:emerg|crit|alert|error)\] (?:\d+#\d+: )?(.*)")


@dataclass(frozen=True)
class Look:
    """What nginx is and how it is configured now."""

    build: Build
    dump: Dump
    site: Site


class Nginx:
    """One nginx and our two files in it."""

    def __init__(
        self,
        settings: Settings,
        root: str = "/",
        runner: Runner | None = None,
        pids: Callable[[], tuple[int, ...]] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``pids`` returns the processes of nginx's unit; ``root`` is for our flags and files, in tests."""
        self.settings = settings
        self._root = root
        self._runner = runner or Runner()
        self._pids = pids or (lambda: outside.pids(settings.unit))
        self._sleep = sleep

    # Looking

    def look(self) -> Look:
        """Read what nginx was built with and its configuration, which must pass. Raises nginx_config_broken."""
        said = self._runner.run((self.settings.program, "-V"))
        done = self._run("-T")
        if done.rc != 0:
            raise broken(done.stderr)
        dump = syntax.split(done.stdout)
        return Look(build.parse(said.stderr + said.stdout), dump, findings.site(dump, self.settings.places))

    def processes(self) -> Processes:
        """Return what runs."""
        return workers.read(self._pids())

    def refusals(self, look: Look, phase: str | None = None) -> list[Reason]:
        """Return what stands in the way of ``phase``; None: of any. Consent is not asked for here."""
        found = list(findings.refusals(look.build, look.site, self.settings.places))
        if phase == RX and not look.build.both_ways:
            message = f"nginx runs with OpenSSL {look.build.openssl}, which never lets the kernel decrypt TLS 1.3"
            found.append(Reason("nginx_no_ktls_receive", message, "stay at tx, or update to OpenSSL 3.2 or later"))
        return found

    def status(self) -> dict[str, Any]:
        """Return the switch and the processes, without starting nginx."""
        now = self.processes()
        return {
            "mode": self._phase(),
            "owed": self._there(self.settings.places.owed),
            "master": now.master,
            "workers": len(now.workers),
            "draining": len(now.leaving),
        }

    def check(self) -> dict[str, Any]:
        """Say whether the switch could be used now, and change nothing. Raises KtlsError: why not."""
        look = self.look()
        first = next(iter(self.refusals(look)), None)
        if first is not None:
            raise KtlsError(first.code, f"{first.message}; {first.cure}")
        if self.processes().master is None:
            raise KtlsError("nginx_not_running", f"{self.settings.unit} does not run on this host; start it first")
        return {**_about(look.build), "ports": list(look.site.ports), **self.status()}

    # The switch

    def on(self, phase: str) -> dict[str, Any]:
        """Let new connections have kernel TLS, as ``phase``. Raises KtlsError; then all is as it was."""
        if phase not in (TX, RX):
            raise KtlsError("bad_request", f"nginx has no phase {phase}")
        with originals.lock(self._root):
            self._refuse_flagged()
            look = self.look()
            first = next(iter(self.refusals(look, phase)), None)
            if first is not None:
                raise KtlsError(first.code, f"{first.message}; {first.cure}")
            before = self.processes()
            if before.master is None:
                raise KtlsError("nginx_not_running", f"{self.settings.unit} does not run on this host; start it first")
            wanted = dropin.on(phase, sendfile=not look.site.sendfile)
            places = self.settings.places
            old = textfile.read(self._root, places.on)
            if old is not None and old.encode() == wanted and not self._there(places.owed):
                return {"changed": False, **_about(look.build), **self.status()}
            self._write(places.on, wanted)
            reloaded = False
            try:
                self._test(blame="kernel TLS in it")
                self._refuse_flagged()
                reloaded = True
                self._reload(before)
                self._refuse_flagged()
            except KtlsError:
                self._restore(old, reloaded)
                raise
            self._unlink(places.owed)
        return {"changed": True, **_about(look.build), **self.status()}

    def off(self) -> dict[str, Any]:
        """Let new connections have userspace TLS. Raises KtlsError when nginx cannot be told."""
        with originals.lock(self._root):
            changed = self._off()
        return {"changed": changed, **self.status()}

    def _off(self) -> bool:
        places = self.settings.places
        if self._there(places.on):
            # A name of its own says until the end that nginx may not know yet; `ktls-off` does it in the same way.
            os.replace(self._under(places.on), self._under(places.owed))
        elif not self._there(places.owed):
            return False
        with self._turn():
            if not self._there(places.owed):
                return True  # `ktls-off` was at it, and has told nginx
            before = self.processes()
            if before.master is not None:
                self._test()
                self._reload(before)
            self._unlink(places.owed)
        return True

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait while `ktls-off` does the same (take_turn there), so that nginx is not told twice; not for ever."""
        busy = os.path.join(self._root, BUSY)
        deadline = time.monotonic() + TURN_WAIT_S
        while (mine := _made(busy)) is False and time.monotonic() < deadline:
            self._sleep(_POLL_S)
        try:
            yield
        finally:
            if mine is not None:  # also one that somebody left who was killed
                with contextlib.suppress(OSError):
                    os.rmdir(busy)

    # The file that stays

    def install(self, check: bool = False) -> dict[str, Any]:
        """Put the base and the probe object there, and let nginx take the base. Raises KtlsError; then it is out.

        What was there before is recorded, as a lever does (:mod:`ktls_host.originals`).
        """
        with originals.lock(self._root):
            look = self.look()
            first = next(iter(self.refusals(look)), None)
            if first is not None:
                raise KtlsError(first.code, f"{first.message}; {first.cure}")
            default_log = "" if look.site.logs else look.build.http_log
            base = self.settings.places.base
            specs = [
                FileSpec(f"{PROBE_ROOT}/{PROBE_NAME}", probe_bytes()),
                FileSpec(base, dropin.base(self.settings.base(default_log))),
            ]
            adoption = originals.plan(LEVER, specs, root=self._root)
            changed = [change for change in adoption.changes if change.spec.path == base]
            if adoption.changes and not check:
                originals.commit(adoption)
                try:
                    if changed:
                        self._test(blame="our part of it")
                        self._reload_if_it_runs()
                except KtlsError:
                    self._take_back(adoption)
                    raise
        return {
            "changed": bool(adoption.changes),
            "diff": [change.diff() for change in changed],
            "notes": [note.as_dict() for note in findings.notes(look.build, look.dump)],
            "ports": list(look.site.ports),
            **_about(look.build),
        }

    def _take_back(self, adoption: Adoption) -> None:
        if adoption.known is None:
            restoration = originals.plan_restore(LEVER, self._root)
            originals.restore_files(restoration)
            originals.forget(restoration)
            return
        before = [FileSpec(change.spec.path, change.before) for change in adoption.changes]
        files.apply(files.plan_files(before, self._root))
        originals.save(adoption.known, self._root)

    def remove(self, check: bool = False) -> dict[str, Any]:
        """Take all of it out, and let nginx know. Raises KtlsError: edited_meanwhile, or that it cannot be told."""
        places = self.settings.places
        with originals.lock(self._root):
            restoration = originals.plan_restore(LEVER, self._root)
            restoration.refuse_edited()
            there = [path for path in (places.on, places.owed) if self._there(path)]
            there += [found.original.path for found in restoration.back]
            if not check:
                self._off()
                originals.restore_files(restoration)
                if places.base in there:
                    self._test()
                    self._reload_if_it_runs()
                originals.forget(restoration)
        return {"changed": bool(there), "removed": sorted(there)}

    def _reload_if_it_runs(self) -> None:
        before = self.processes()
        if before.master is not None:
            self._reload(before)

    # Steps

    def _run(self, *words: str) -> Any:
        config = ("-c", self.settings.config) if self.settings.config else ()
        return self._runner.run((self.settings.program, *words, *config))

    def _test(self, blame: str = "") -> None:
        done = self._run("-t", "-q")
        if done.rc != 0:
            raise broken(done.stderr, blame)

    def _reload(self, before: Processes) -> None:
        """Reload, and return when new workers serve. Connections of the old ones go on."""
        done = self._runner.run(("systemctl", "reload", self.settings.unit))
        if done.rc != 0:
            message = f"systemctl reload {self.settings.unit} failed ({done.reason}); see its journal"
            raise KtlsError("nginx_reload_failed", message)
        deadline = time.monotonic() + SEEN_WITHIN_S
        while not workers.renewed(before, self.processes()):
            if time.monotonic() >= deadline:
                message = (
                    f"{self.settings.unit} was reloaded, and {SEEN_WITHIN_S:g} s later its workers are the old ones:"
                    " its error log says why"
                )
                raise KtlsError("nginx_reload_not_seen", message)
            self._sleep(_POLL_S)

    def _restore(self, old: str | None, reloaded: bool) -> None:
        """Put back what was there before, as far as that goes; whatever was wrong is raised already."""
        places = self.settings.places
        if not reloaded or (old is not None and not self._flagged()):
            if old is None:
                self._unlink(places.on)
            else:
                self._write(places.on, old.encode())
            return
        with contextlib.suppress(KtlsError, OSError):
            self._off()

    def _phase(self) -> str | None:
        return dropin.phase_of(textfile.read(self._root, self.settings.places.on))

    def _flagged(self) -> bool:
        for path in FLAGS:
            try:
                os.lstat(os.path.join(self._root, path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                pass
            return True  # one that cannot be looked at says off
        return False

    def _refuse_flagged(self) -> None:
        if self._flagged():
            raise KtlsError("off_latched", "an off flag is set on this host: nginx is not switched to kernel TLS")

    def _write(self, path: str, content: bytes) -> None:
        """Write one of our files. It gets the owner that we have, which is root: chown(2) is not allowed here."""
        files.plan_files([FileSpec(path, content)], self._root)  # refuses what somebody prepared for us to follow
        files.atomic_write(self._under(path), content, 0o644)

    def _there(self, path: str) -> bool:
        return os.path.lexists(self._under(path))

    def _unlink(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._under(path))

    def _under(self, path: str) -> str:
        return textfile.under(self._root, path)


def _made(directory: str) -> bool | None:
    """Make it, and return whether it was not there before; None: it cannot be made."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        return False
    except OSError:
        return None
    return True


def broken(said: str, blame: str = "") -> KtlsError:
    """Return the error for a configuration that nginx does not take, in nginx's words: file and line are in them."""
    found = _COMPLAINT.findall(said)
    last = (said.strip().splitlines() or ["nginx -t gives no reason"])[-1]
    why = "; ".join(dict.fromkeys(found[:2])) or last
    code = "nginx_refuses_dropin" if blame else "nginx_config_broken"
    what = f"with {blame} nginx does not take its configuration" if blame else "nginx's configuration is broken"
    return KtlsError(code, f"{what}: {why}; nothing was reloaded, repair it and see `nginx -t`")


def _about(found: Build) -> dict[str, Any]:
    return {"version": found.version, "openssl": found.openssl, "library": found.library}
