# SPDX-License-Identifier: Apache-2.0
"""The ``module`` lever: kernel module ``tls`` loaded now, and loaded at boot.

``probe`` reads, ``plan`` decides and is pure, ``apply`` acts, ``verify`` checks what came of it. ``adopt`` records what
the host was like before the first change; ``plan_back`` and ``restore`` put that back.

The module takes no parameters (``modinfo -F parm tls`` prints none), so there are none to set.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from . import originals, textfile, tls_stat
from .commands import CommandResult, Runner
from .errors import KtlsError
from .files import FileSpec, plan_files
from .files import apply as apply_files
from .steps import Step

MODULE = "tls"
LEVER = "module"
PERSIST_PATH = "/etc/modules-load.d/ktls-fleet.conf"
PERSIST_TEXT = "# Written by ktls-fleet: kernel TLS at boot. Edited by hand, it stays so.\ntls\n"
PERSIST_SPEC = FileSpec(PERSIST_PATH, PERSIST_TEXT.encode())

_LOAD, _UNLOAD = ("modprobe", MODULE), ("modprobe", "-r", MODULE)
_UNDO = {"load": _UNLOAD, "unload": _LOAD}

# modprobe.d(5): a file hides files of the same name in later directories.
_MODPROBE_DIRECTORIES = (
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
)


@dataclass(frozen=True)
class ModuleState:
    """What one host says about its ``tls`` module.

    ``blacklisted_by`` are files with ``blacklist tls``: they stop loading by alias and at boot, but not
    ``modprobe tls``. ``blocked_by`` stops that too (an ``install`` line, the kernel command line,
    ``kernel.modules_disabled``). ``refcount`` is ``None`` when the module is not loaded; each socket with the
    TLS ULP holds one. ``ulp_available`` is ``None`` when the kernel does not say. ``persisted`` is the text
    of our modules-load.d file; ``persisted_exact`` is true when that file has our text, mode and owner.
    """

    kernel: str
    loaded: bool
    builtin: bool
    loadable: bool
    blacklisted_by: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    refcount: int | None = None
    users: tuple[str, ...] = ()
    ulp_available: bool | None = None
    open_contexts: dict[str, int] = field(default_factory=dict)
    persisted: str | None = None
    persisted_exact: bool = False

    @property
    def present(self) -> bool:
        """True when the kernel can do TLS now, as a module or built in."""
        return self.loaded or self.builtin

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        plain = asdict(self)
        for name in ("blacklisted_by", "blocked_by", "users"):
            plain[name] = list(plain[name])
        return plain


@dataclass(frozen=True)
class DesiredModule:
    """What is wanted; ``None`` leaves that part as it is."""

    loaded: bool | None = None
    persistent: bool | None = None


def probe(root: str = "/") -> ModuleState:
    """Read the state of the host whose files are under ``root``. Starts no program.

    Raises :class:`KtlsError` when our own modules-load.d file is a link or lies in an unsafe directory.
    """
    kernel = _read(root, "/proc/sys/kernel/osrelease").strip() or os.uname().release
    modules = os.path.join("/lib/modules", kernel)
    loaded = parse_proc_modules(_read(root, "/proc/modules")).get(MODULE)
    builtin = MODULE in parse_module_paths(_read(root, f"{modules}/modules.builtin"))
    on_disk = MODULE in parse_module_paths(_read(root, f"{modules}/modules.dep"))
    blacklisted_by, blocked_by = _obstacles(root)
    ulps = _read(root, "/proc/sys/net/ipv4/tcp_available_ulp").split()
    ulp_known = os.path.exists(textfile.under(root, "/proc/sys/net/ipv4/tcp_available_ulp"))
    counters = tls_stat.parse(_read(root, tls_stat.PATH))
    return ModuleState(
        kernel=kernel,
        loaded=loaded is not None,
        builtin=builtin,
        loadable=(on_disk or loaded is not None) and not builtin and not blocked_by,
        blacklisted_by=blacklisted_by,
        blocked_by=blocked_by,
        refcount=loaded[0] if loaded else None,
        users=loaded[1] if loaded else (),
        ulp_available=MODULE in ulps if ulp_known else None,
        open_contexts={name: n for name, n in counters.items() if name.startswith(tls_stat.GAUGE_PREFIX)},
        persisted=textfile.read(root, PERSIST_PATH),
        persisted_exact=not plan_files([PERSIST_SPEC], root),
    )


def plan(current: ModuleState, desired: DesiredModule) -> list[Step]:
    """Return the steps from ``current`` to ``desired``; empty when there is nothing to do. Pure.

    Raises :class:`KtlsError`: ``tls_module_missing``, ``module_blocked``, ``module_blacklisted``,
    ``module_builtin``, ``module_in_use``.
    """
    steps: list[Step] = []
    # Loading and unloading come first: they are what can fail, and then nothing else has happened.
    if desired.loaded is True and not current.present:
        _refuse_unloadable(current)
        steps.append(Step("load", f"load kernel module {MODULE}", argv=_LOAD))
    if desired.loaded is False and current.present:
        _refuse_unload(current)
        steps.append(Step("unload", f"unload kernel module {MODULE}", argv=_UNLOAD))
    if desired.persistent is True and not current.persisted_exact:
        if not current.present:
            _refuse_unloadable(current)
        _refuse_boot(current)
        steps.append(Step("persist", f"write {PERSIST_PATH}", file=PERSIST_SPEC))
    if desired.persistent is False and current.persisted is not None:
        steps.append(Step("unpersist", f"remove {PERSIST_PATH}", file=FileSpec.absent(PERSIST_PATH)))
    return steps


def apply(steps: Iterable[Step], runner: Runner | None = None, root: str = "/") -> None:
    """Carry the steps out in order; at the first that fails, undo what this call loaded or unloaded, and stop.

    Raises :class:`KtlsError`: those of :func:`plan`, ``module_rejected``, ``module_command_failed``, and
    those of :func:`ktls_host.files.apply`.
    """
    runner = runner or Runner()
    done: list[Step] = []
    try:
        for step in steps:
            if step.file is not None:
                apply_files(plan_files([step.file], root))
            else:
                result = runner.run(step.argv)
                if result.rc != 0:
                    raise _command_error(step, result, probe(root))
            done.append(step)
    except KtlsError:
        for step in reversed(done):
            if step.code in _UNDO:
                runner.run(_UNDO[step.code])
        raise


def predict(current: ModuleState, desired: DesiredModule) -> ModuleState:
    """Return the state that the plan leads to, as far as it is asked for: "after" in check mode."""
    changed = asdict(current)
    if desired.loaded is not None and not current.builtin:
        changed["loaded"] = desired.loaded
    if desired.persistent is not None:
        changed["persisted"] = PERSIST_TEXT if desired.persistent else None
        changed["persisted_exact"] = desired.persistent
    return ModuleState(**changed)


def adopt(current: ModuleState, steps: Iterable[Step], root: str = "/") -> None:
    """Record, durable when this returns, what ``current`` was before ``steps`` are carried out.

    Only the first call for a host records; later ones add what will be ours. Raises :class:`KtlsError`:
    ``edited_meanwhile``, ``record_unreadable``, ``write_failed``.
    """
    specs = [step.file for step in steps if step.file is not None]
    adoption = originals.plan(LEVER, specs, {"loaded": current.present}, root)
    if adoption.record != adoption.known:
        originals.save(adoption.record, root)


def check_adoption(steps: Iterable[Step], root: str = "/") -> None:
    """Raise what :func:`adopt` would, and write nothing."""
    originals.plan(LEVER, [step.file for step in steps if step.file is not None], {}, root)


def plan_back(current: ModuleState, restoration: originals.Restoration) -> list[Step]:
    """Return the steps to the recorded state; empty when there is nothing to put back. Pure.

    Raises :class:`KtlsError`: ``module_in_use``, ``tls_module_missing``, ``module_blocked``.
    """
    recorded = restoration.facts.get("loaded")
    builtin = current.builtin
    steps = plan(current, DesiredModule(None if builtin or not isinstance(recorded, bool) else recorded))
    for found in restoration.back:
        steps.append(Step("restore", f"put {found.original.path} back as it was"))
    return steps


def restore(steps: Iterable[Step], restoration: originals.Restoration, runner: Runner | None = None) -> None:
    """Carry out what :func:`plan_back` said, and drop the record. May be repeated after any interruption.

    Raises :class:`KtlsError` as :func:`apply` does.
    """
    apply([step for step in steps if step.argv], runner, restoration.root)
    originals.restore_files(restoration)
    originals.forget(restoration)


def predict_back(current: ModuleState, restoration: originals.Restoration) -> ModuleState:
    """Return the state that :func:`plan_back` leads to: "after" in check mode."""
    recorded = restoration.facts.get("loaded")
    changed = asdict(current)
    if isinstance(recorded, bool) and not current.builtin:
        changed["loaded"] = recorded
    for found in restoration.back:
        content = found.original.content
        changed["persisted"] = None if content is None else content.decode("utf-8", "replace")
        changed["persisted_exact"] = content == PERSIST_SPEC.content
    return ModuleState(**changed)


def verify(state: ModuleState, desired: DesiredModule) -> None:
    """Check that the host is as desired after :func:`apply`; raises :class:`KtlsError` ``not_effective``."""
    if desired.loaded is True and not (state.present and state.ulp_available is not False):
        message = f"modprobe {MODULE} reported success, but the kernel does not offer the TLS ULP; see dmesg"
        raise KtlsError("not_effective", message)
    if desired.loaded is False and state.present:
        raise KtlsError("not_effective", f"module {MODULE} is loaded again already; find who loads it")
    if desired.persistent is True and not state.persisted_exact:
        raise KtlsError("not_effective", f"{PERSIST_PATH} is not what was written; find who else writes it")
    if desired.persistent is False and state.persisted is not None:
        raise KtlsError("not_effective", f"{PERSIST_PATH} is back already; find who else writes it")


def diff_text(state: ModuleState) -> str:
    """Return the part of the state that this lever changes, one ``name: value`` a line, for ``--diff``."""
    return f"loaded: {str(state.present).lower()}\n{PERSIST_PATH}: {_quoted(state.persisted)}\n"


def parse_proc_modules(text: str) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return ``{module: (refcount, modules that use it)}`` from /proc/modules (proc_modules(5)).

    Modules that are not ``Live`` are left out: they do not serve yet, or no more.
    """
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 5 or fields[4] != "Live":
            continue
        # "-" stands there on kernels built without module unloading.
        refcount = int(fields[2]) if fields[2].isascii() and fields[2].isdigit() else 0
        users = tuple(name for name in fields[3].split(",") if name not in ("", "-"))
        found[fields[0]] = (refcount, users)
    return found


def parse_module_paths(text: str) -> set[str]:
    """Return module names from modules.builtin or modules.dep (both start each line with a path, kmod)."""
    names = set()
    for line in text.splitlines():
        base = line.split(":", 1)[0].strip().rsplit("/", 1)[-1]
        name, found, _ = base.partition(".ko")
        if found and name:
            names.add(_normal(name))
    return names


def parse_modprobe_config(text: str, module: str = MODULE) -> set[str]:
    """Return which of ``blacklist`` and ``install`` a modprobe.d(5) file says about ``module``."""
    said = set()
    # A backslash at the end of a line continues it.
    for line in text.replace("\\\n", " ").splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] in ("blacklist", "install") and _normal(fields[1]) == module:
            said.add(fields[0])
    return said


def parse_cmdline(text: str, module: str = MODULE) -> set[str]:
    """Return which of ``blacklist`` and ``install`` the kernel command line amounts to for ``module``.

    ``module_blacklist=`` makes the kernel refuse the module (kernel-parameters.txt), ``modprobe.blacklist=``
    is read by modprobe as a blacklist line (modprobe(8)).
    """
    said = set()
    for word in text.split():
        name, _, value = word.partition("=")
        if module in (_normal(item) for item in value.split(",")):
            if name == "module_blacklist":
                said.add("install")
            elif name == "modprobe.blacklist":
                said.add("blacklist")
    return said


def missing_message(kernel: str) -> str:
    """Return why there is no module, and in which package distributions put it."""
    return (
        f"kernel {kernel} has no module {MODULE} (CONFIG_TLS): install linux-modules-extra-{kernel} on Ubuntu, "
        f"kernel-modules on RHEL and Fedora, a distribution kernel on Debian, or use another kernel"
    )


def _refuse_unloadable(current: ModuleState) -> None:
    if current.blocked_by:
        where = ", ".join(current.blocked_by)
        raise KtlsError("module_blocked", f"loading module {MODULE} is blocked by {where}; remove that first")
    if not current.loadable:
        raise KtlsError("tls_module_missing", missing_message(current.kernel))


def _refuse_boot(current: ModuleState) -> None:
    """systemd-modules-load honours blacklists (modules-load.d(5)), so our file would do nothing."""
    if current.blacklisted_by:
        where = ", ".join(current.blacklisted_by)
        message = f"module {MODULE} would not load at boot: it is blacklisted in {where}; remove that line"
        raise KtlsError("module_blacklisted", message)


def _refuse_unload(current: ModuleState) -> None:
    if current.builtin:
        message = f"{MODULE} is built into kernel {current.kernel} and cannot be unloaded; leave it loaded"
        raise KtlsError("module_builtin", message)
    if current.refcount or current.users:
        raise KtlsError("module_in_use", _in_use(current))


def _in_use(current: ModuleState) -> str:
    by = [f"{name}={value}" for name, value in sorted(current.open_contexts.items()) if value]
    by += [f"module {name}" for name in current.users]
    detail = f" ({', '.join(by)})" if by else ""
    return (
        f"module {MODULE} is in use: {current.refcount or 0} references, one for each socket with kernel TLS"
        f"{detail}; switch new connections to userspace, wait until these have closed, then unload"
    )


def _command_error(step: Step, result: CommandResult, now: ModuleState) -> KtlsError:
    said = result.stderr.lower()
    if step.code == "unload" and ("in use" in said or now.refcount):
        return KtlsError("module_in_use", _in_use(now))
    if "not found" in said:
        return KtlsError("tls_module_missing", missing_message(now.kernel))
    if "key was rejected" in said or "required key" in said or "lockdown" in said:
        message = f"the kernel refused module {MODULE} ({result.reason}): use a module signed for this kernel"
        return KtlsError("module_rejected", message)
    if "operation not permitted" in said or "permission denied" in said:
        message = f"{' '.join(step.argv)} was not permitted ({result.reason}): run as root, not in a container"
        return KtlsError("not_permitted", message)
    message = f"{' '.join(step.argv)} failed ({result.reason}); see dmesg on this host"
    return KtlsError("module_command_failed", message)


def _obstacles(root: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    blacklisted: list[str] = []
    blocked: list[str] = []
    for path, text in _modprobe_files(root):
        said = parse_modprobe_config(text)
        if "blacklist" in said:
            blacklisted.append(path)
        if "install" in said:
            blocked.append(path)
    said = parse_cmdline(_read(root, "/proc/cmdline"))
    if "blacklist" in said:
        blacklisted.append("/proc/cmdline")
    if "install" in said:
        blocked.append("/proc/cmdline")
    if _read(root, "/proc/sys/kernel/modules_disabled").strip() == "1":
        blocked.append("/proc/sys/kernel/modules_disabled")
    return tuple(blacklisted), tuple(blocked)


def _modprobe_files(root: str) -> list[tuple[str, str]]:
    """Return path and text of each modprobe.d file that counts, by name, as modprobe reads them."""
    chosen: dict[str, str] = {}
    for directory in _MODPROBE_DIRECTORIES:
        for found in glob.glob(os.path.join(glob.escape(textfile.under(root, directory)), "*.conf")):
            chosen.setdefault(os.path.basename(found), os.path.join(directory, os.path.basename(found)))
    return [(path, _read(root, path)) for _, path in sorted(chosen.items())]


def _read(root: str, path: str) -> str:
    return textfile.read(root, path) or ""


def _normal(name: str) -> str:
    return name.replace("-", "_")


def _quoted(text: str | None) -> str:
    return "absent" if text is None else repr(text)
