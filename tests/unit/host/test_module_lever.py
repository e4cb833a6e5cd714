# SPDX-License-Identifier: Apache-2.0
"""The module lever: what it reads from recorded hosts, what it decides, and what it does about failures."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import module_lever, originals
from ktls_host.commands import CommandResult, Runner
from ktls_host.errors import KtlsError
from ktls_host.module_lever import PERSIST_PATH, PERSIST_TEXT, DesiredModule, ModuleState, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.unit.host.recordings import Recording

KERNEL = "6.12.1-test"
UNLOADED = ModuleState(KERNEL, loaded=False, builtin=False, loadable=True, ulp_available=False)
LOADED = ModuleState(KERNEL, loaded=True, builtin=False, loadable=True, refcount=0, ulp_available=True)
BUILTIN = ModuleState(KERNEL, loaded=False, builtin=True, loadable=False, ulp_available=True)
MISSING = ModuleState(KERNEL, loaded=False, builtin=False, loadable=False, ulp_available=False)
OURS: dict[str, Any] = {"persisted": PERSIST_TEXT, "persisted_exact": True}


class Host:
    """A root directory with the files that the lever reads, and a modprobe that acts on them."""

    def __init__(self, root: Path, kernel: str = KERNEL) -> None:
        self.root = root
        self.calls: list[tuple[str, ...]] = []
        self.fail: CommandResult | None = None
        self.write("/proc/sys/kernel/osrelease", f"{kernel}\n")
        self.write("/proc/modules", "ext4 1 0 - Live 0x0\n")
        self.write("/proc/sys/net/ipv4/tcp_available_ulp", "mptcp\n")
        self.write(f"/lib/modules/{kernel}/modules.dep", "kernel/net/tls/tls.ko.xz:\n")
        self.write(f"/lib/modules/{kernel}/modules.builtin", "kernel/fs/ext4.ko\n")
        (root / "etc/modules-load.d").mkdir(parents=True)

    def write(self, path: str, text: str) -> None:
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def read(self, path: str) -> str:
        return (self.root / path.lstrip("/")).read_text()

    def load(self, refcount: int = 0, users: str = "-") -> None:
        self.write("/proc/modules", f"ext4 1 0 - Live 0x0\ntls 139264 {refcount} {users} Live 0x0\n")
        self.write("/proc/sys/net/ipv4/tcp_available_ulp", "mptcp tls\n")

    def probe(self) -> ModuleState:
        return module_lever.probe(str(self.root))

    def run(self, argv: Sequence[str], stdin: str | None = None) -> CommandResult:
        self.calls.append(tuple(argv))
        if self.fail is not None:
            return self.fail
        if tuple(argv) == ("modprobe", "tls"):
            self.load()
        if tuple(argv) == ("modprobe", "-r", "tls"):
            self.write("/proc/modules", "")
            self.write("/proc/sys/net/ipv4/tcp_available_ulp", "mptcp\n")
        return CommandResult(0, "", "")

    def apply(self, desired: DesiredModule) -> list[str]:
        steps = plan(self.probe(), desired)
        module_lever.apply(steps, self, str(self.root))  # type: ignore[arg-type]
        return [step.code for step in steps]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def code(current: ModuleState, desired: DesiredModule) -> str:
    with pytest.raises(KtlsError) as caught:
        plan(current, desired)
    assert "\n" not in caught.value.message
    return caught.value.code


# probe


def test_probe_of_recorded_kernels(tmp_path: Path, recording: Recording) -> None:
    host = Host(tmp_path, recording.release)
    host.write("/proc/modules", recording.proc_modules)
    host.write("/proc/net/tls_stat", recording.tls_stat)
    host.write("/proc/sys/net/ipv4/tcp_available_ulp", recording.tcp_available_ulp)
    host.write(f"/lib/modules/{recording.release}/modules.dep", recording.modules_dep)
    host.write(f"/lib/modules/{recording.release}/modules.builtin", recording.modules_builtin)
    state = host.probe()
    assert (state.kernel, state.loaded, state.builtin, state.loadable) == (recording.release, True, False, True)
    assert state.refcount == 5, "five of the six recorded sockets have the ULP"
    assert state.ulp_available is True
    assert (state.open_contexts["TlsCurrTxSw"], state.open_contexts["TlsCurrRxSw"]) == (4, 1)
    assert code(state, DesiredModule(loaded=False)) == "module_in_use"


def test_probe_of_an_empty_root(tmp_path: Path) -> None:
    state = module_lever.probe(str(tmp_path))
    assert (state.loaded, state.builtin, state.loadable) == (False, False, False)
    assert (state.ulp_available, state.refcount, state.persisted) == (None, None, None)


def test_probe_of_a_host_without_it(host: Host) -> None:
    state = host.probe()
    assert (state.loaded, state.loadable, state.ulp_available) == (False, True, False)
    host.write(f"/lib/modules/{KERNEL}/modules.dep", "kernel/net/bonding.ko: kernel/net/tls/tls.ko\n")
    assert host.probe().loadable is False, "a module that others need is not there by that"


def test_probe_of_a_builtin(host: Host) -> None:
    host.write(f"/lib/modules/{KERNEL}/modules.builtin", "kernel/net/tls/tls.ko\n")
    state = host.probe()
    assert (state.loaded, state.builtin, state.loadable, state.present) == (False, True, False, True)


def test_module_that_is_on_its_way_is_not_loaded(host: Host) -> None:
    host.write("/proc/modules", "tls 139264 1 - Loading 0x0\n")
    assert host.probe().loaded is False


@pytest.mark.parametrize("line", ["blacklist tls", "  blacklist\ttls  # comment", "blacklist \\\n tls"])
def test_blacklist_is_found_and_named(host: Host, line: str) -> None:
    host.write("/etc/modprobe.d/no.conf", f"# install tls /bin/true\nblacklist other\n{line}\n")
    state = host.probe()
    assert (state.blacklisted_by, state.blocked_by, state.loadable) == (("/etc/modprobe.d/no.conf",), (), True)


def test_install_line_blocks(host: Host) -> None:
    host.write("/usr/lib/modprobe.d/cis.conf", "install tls /bin/false\n")
    state = host.probe()
    assert (state.blocked_by, state.loadable) == (("/usr/lib/modprobe.d/cis.conf",), False)


def test_file_in_etc_hides_its_namesake(host: Host) -> None:
    host.write("/usr/lib/modprobe.d/x.conf", "blacklist tls\n")
    host.write("/etc/modprobe.d/x.conf", "# nothing\n")
    assert host.probe().blacklisted_by == ()


@pytest.mark.parametrize(
    ("path", "text", "blacklisted", "blocked"),
    [
        ("/proc/cmdline", "ro module_blacklist=foo,tls quiet", (), ("/proc/cmdline",)),
        ("/proc/cmdline", "modprobe.blacklist=tls", ("/proc/cmdline",), ()),
        ("/proc/cmdline", "module_blacklist=notls tls", (), ()),
        ("/proc/sys/kernel/modules_disabled", "1\n", (), ("/proc/sys/kernel/modules_disabled",)),
        ("/proc/sys/kernel/modules_disabled", "0\n", (), ()),
        ("/etc/modprobe.d/x.txt", "blacklist tls\n", (), ()),
        ("/etc/modprobe.d/x.conf", "options tls foo=1\nblacklist tls_x\nblacklist\n", (), ()),
    ],
)
def test_obstacles(host: Host, path: str, text: str, blacklisted: tuple[str, ...], blocked: tuple[str, ...]) -> None:
    host.write(path, text)
    state = host.probe()
    assert (state.blacklisted_by, state.blocked_by) == (blacklisted, blocked)


# parsers


@given(st.text())
def test_parsers_never_raise(text: str) -> None:
    module_lever.parse_proc_modules(text)
    module_lever.parse_module_paths(text)
    module_lever.parse_modprobe_config(text)
    module_lever.parse_cmdline(text)


def test_parse_proc_modules_users() -> None:
    text = "tls 139264 2 bonding,mlx5_core, Live 0x0 (E)\nshort line\n"
    assert module_lever.parse_proc_modules(text) == {"tls": (2, ("bonding", "mlx5_core"))}


@pytest.mark.parametrize("ending", [".ko", ".ko.xz", ".ko.gz", ".ko.zst"])
def test_parse_module_paths(ending: str) -> None:
    text = f"kernel/net/tls/tls{ending}: kernel/a/other.ko\nkernel/x/tcp-diag{ending}\njunk\n"
    assert module_lever.parse_module_paths(text) == {"tls", "tcp_diag"}


# plan


@pytest.mark.parametrize(
    ("current", "desired", "steps"),
    [
        (UNLOADED, DesiredModule(), []),
        (UNLOADED, DesiredModule(loaded=True), ["load"]),
        (UNLOADED, DesiredModule(loaded=True, persistent=True), ["load", "persist"]),
        (UNLOADED, DesiredModule(persistent=True), ["persist"]),
        (UNLOADED, DesiredModule(loaded=False, persistent=False), []),
        (LOADED, DesiredModule(loaded=True), []),
        (LOADED, DesiredModule(loaded=False), ["unload"]),
        (replace(LOADED, **OURS), DesiredModule(loaded=True, persistent=True), []),
        (replace(LOADED, **OURS), DesiredModule(loaded=False, persistent=False), ["unload", "unpersist"]),
        (replace(LOADED, persisted="tls\n"), DesiredModule(persistent=True), ["persist"]),
        (replace(LOADED, persisted=PERSIST_TEXT), DesiredModule(persistent=True), ["persist"]),
        (replace(LOADED, persisted="other\n"), DesiredModule(persistent=False), ["unpersist"]),
        (BUILTIN, DesiredModule(loaded=True), []),
        (replace(LOADED, blacklisted_by=("/x",)), DesiredModule(loaded=True), []),
        (replace(UNLOADED, blacklisted_by=("/x",)), DesiredModule(loaded=True), ["load"]),
        (replace(LOADED, refcount=9), DesiredModule(persistent=False), []),
    ],
)
def test_plan(current: ModuleState, desired: DesiredModule, steps: list[str]) -> None:
    assert [step.code for step in plan(current, desired)] == steps


@pytest.mark.parametrize(
    ("current", "desired", "expected"),
    [
        (MISSING, DesiredModule(loaded=True), "tls_module_missing"),
        (MISSING, DesiredModule(persistent=True), "tls_module_missing"),
        (replace(UNLOADED, loadable=False, blocked_by=("/x",)), DesiredModule(loaded=True), "module_blocked"),
        (replace(LOADED, blacklisted_by=("/x",)), DesiredModule(persistent=True), "module_blacklisted"),
        (BUILTIN, DesiredModule(loaded=False), "module_builtin"),
        (replace(LOADED, refcount=1), DesiredModule(loaded=False), "module_in_use"),
        (replace(LOADED, refcount=0, users=("bonding",)), DesiredModule(loaded=False), "module_in_use"),
    ],
)
def test_refusals(current: ModuleState, desired: DesiredModule, expected: str) -> None:
    assert code(current, desired) == expected


def test_refusals_name_cause_and_cure() -> None:
    with pytest.raises(KtlsError) as caught:
        plan(MISSING, DesiredModule(loaded=True))
    for word in (KERNEL, f"linux-modules-extra-{KERNEL}", "kernel-modules"):
        assert word in caught.value.message
    busy = replace(LOADED, refcount=3, open_contexts={"TlsCurrTxSw": 3, "TlsCurrRxSw": 0}, users=("bonding",))
    with pytest.raises(KtlsError) as caught:
        plan(busy, DesiredModule(loaded=False))
    for word in ("3 references", "TlsCurrTxSw=3", "module bonding", "wait until"):
        assert word in caught.value.message
    assert "TlsCurrRxSw" not in caught.value.message


def test_refused_plan_has_no_steps_at_all() -> None:
    """Nothing is half done: the part that could be done is not done either."""
    busy = replace(LOADED, refcount=1, **OURS)
    assert code(busy, DesiredModule(loaded=False, persistent=False)) == "module_in_use"


states = st.builds(
    ModuleState,
    kernel=st.just(KERNEL),
    loaded=st.booleans(),
    builtin=st.just(False),
    loadable=st.booleans(),
    blacklisted_by=st.sampled_from([(), ("/etc/modprobe.d/x.conf",)]),
    blocked_by=st.just(()),
    refcount=st.sampled_from([None, 0, 2]),
    persisted=st.sampled_from([None, "tls\n"]),
)
wishes = st.builds(DesiredModule, loaded=st.none() | st.booleans(), persistent=st.none() | st.booleans())


@given(states, wishes)
def test_predicted_state_needs_nothing_more(current: ModuleState, desired: DesiredModule) -> None:
    try:
        steps = plan(current, desired)
    except KtlsError:
        return
    after = module_lever.predict(current, desired)
    assert plan(replace(after, refcount=0), desired) == []
    assert (module_lever.diff_text(after) == module_lever.diff_text(current)) or steps


# apply


def test_apply_load_and_persist(host: Host) -> None:
    before = host.probe()
    predicted = module_lever.predict(before, DesiredModule(True, True))
    assert host.apply(DesiredModule(True, True)) == ["load", "persist"]
    after = host.probe()
    assert host.read(PERSIST_PATH) == PERSIST_TEXT
    assert module_lever.diff_text(after) == module_lever.diff_text(predicted), "check mode told the truth"
    module_lever.verify(after, DesiredModule(True, True))
    assert host.apply(DesiredModule(True, True)) == []
    assert host.calls == [("modprobe", "tls")]


def test_apply_takes_all_of_it_back(host: Host) -> None:
    host.apply(DesiredModule(True, True))
    assert host.apply(DesiredModule(False, False)) == ["unload", "unpersist"]
    assert not (host.root / PERSIST_PATH.lstrip("/")).exists()
    module_lever.verify(host.probe(), DesiredModule(False, False))


def test_foreign_mode_on_our_file_is_repaired(host: Host) -> None:
    host.apply(DesiredModule(True, True))
    (host.root / PERSIST_PATH.lstrip("/")).chmod(0o666)
    assert host.apply(DesiredModule(True, True)) == ["persist"]


def test_link_in_place_of_our_file_is_refused(host: Host) -> None:
    (host.root / PERSIST_PATH.lstrip("/")).symlink_to("/etc/passwd")
    with pytest.raises(KtlsError) as caught:
        host.probe()
    assert caught.value.code == "symlink_in_the_way"


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("modprobe: FATAL: Module tls not found in directory /lib/modules/x", "tls_module_missing"),
        ("modprobe: ERROR: could not insert 'tls': Key was rejected by service", "module_rejected"),
        ("modprobe: ERROR: could not insert 'tls': Operation not permitted", "not_permitted"),
        ("modprobe: ERROR: could not insert 'tls': Exec format error", "module_command_failed"),
        ("", "module_command_failed"),
    ],
)
def test_failed_load_is_named_and_nothing_follows(host: Host, stderr: str, expected: str) -> None:
    host.fail = CommandResult(1, "", stderr)
    with pytest.raises(KtlsError) as caught:
        host.apply(DesiredModule(True, True))
    assert caught.value.code == expected
    assert not (host.root / PERSIST_PATH.lstrip("/")).exists()


def test_socket_that_came_after_the_plan_keeps_the_module(host: Host) -> None:
    host.load()
    steps = plan(host.probe(), DesiredModule(loaded=False, persistent=False))
    host.load(refcount=1)
    host.fail = CommandResult(1, "", "modprobe: FATAL: Module tls is in use.")
    with pytest.raises(KtlsError, match="1 references") as caught:
        module_lever.apply(steps, host, str(host.root))  # type: ignore[arg-type]
    assert caught.value.code == "module_in_use"


@pytest.mark.parametrize(
    ("state", "desired"),
    [
        (UNLOADED, DesiredModule(loaded=True)),
        (replace(LOADED, ulp_available=False), DesiredModule(loaded=True)),
        (LOADED, DesiredModule(loaded=False)),
        (LOADED, DesiredModule(persistent=True)),
        (replace(LOADED, **OURS), DesiredModule(persistent=False)),
    ],
)
def test_success_is_not_believed(state: ModuleState, desired: DesiredModule) -> None:
    with pytest.raises(KtlsError) as caught:
        module_lever.verify(state, desired)
    assert caught.value.code == "not_effective"


def test_state_is_plain_json(host: Host) -> None:
    plain = host.probe().as_dict()
    assert plain["blacklisted_by"] == []
    assert all(isinstance(value, (str, bool, int, list, dict, type(None))) for value in plain.values())


# the runner


def test_runner_uses_the_c_locale_and_returns_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "cs_CZ.UTF-8")
    result = Runner().run(["sh", "-c", "echo $LC_ALL; echo first >&2; echo last >&2; exit 3"])
    assert (result.rc, result.stdout, result.reason) == (3, "C\n", "last")


def test_runner_names_a_missing_program() -> None:
    with pytest.raises(KtlsError, match="no-such-program-here") as caught:
        Runner().run(["no-such-program-here"])
    assert caught.value.code == "command_missing"


def test_runner_gives_no_terminal_to_wait_on() -> None:
    assert Runner().run(["cat"]).stdout == ""
    assert Runner().run(["cat"], stdin="text").stdout == "text"


def test_a_boot_file_that_cannot_be_written_leaves_nothing_loaded(host: Host) -> None:
    (host.root / "etc/modules-load.d").rmdir()
    (host.root / "etc/modules-load.d").write_text("a file in the way")
    with pytest.raises(KtlsError) as refused:
        host.apply(DesiredModule(loaded=True, persistent=True))
    assert refused.value.code == "write_failed"
    assert host.calls == [("modprobe", "tls"), ("modprobe", "-r", "tls")]
    assert not host.probe().loaded


def _lever(host: Host, back: bool) -> None:
    """One run of the module, as library/ktls_module.py has it."""
    root, runner = str(host.root), host
    with originals.lock(root):
        before = host.probe()
        if back:
            restoration = originals.plan_restore(module_lever.LEVER, root)
            module_lever.restore(module_lever.plan_back(before, restoration), restoration, runner)  # type: ignore[arg-type]
            return
        steps = plan(before, DesiredModule(loaded=True, persistent=True))
        if steps:
            module_lever.adopt(before, steps, root)
            module_lever.apply(steps, runner, root)  # type: ignore[arg-type]


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("then", ["present", "absent"])
def test_killed_between_any_two_steps(tmp_path: Path, back: bool, then: str) -> None:
    for number in range(1, 200):
        host = Host(tmp_path / f"{number}")
        (host.root / "run").mkdir()
        host.write(PERSIST_PATH, "# by hand\ntls\n")
        before = _shown(host)
        if back:
            _lever(host, back=False)
        finished = dies_at(number, lambda: _lever(host, back=back), host)  # noqa: B023 - called at once
        if then == "present":
            _lever(host, back=False)
            assert host.probe().loaded and host.read(PERSIST_PATH) == PERSIST_TEXT
        _lever(host, back=True)
        assert _shown(host) == before, f"killed at step {number}"
        assert originals.levers(str(host.root)) == ()
        if finished:
            assert number > 6, "the steps were really counted"
            return
    pytest.fail("it never came to its end")


def _shown(host: Host) -> tuple[str, list[str], bool]:
    return host.read(PERSIST_PATH), sorted(os.listdir(host.root / "etc/modules-load.d")), host.probe().loaded


def dies_at(number: int, action: Callable[[], None], host: Host) -> bool:
    """Run ``action`` in a child that dies at its n-th system call that changes something; True when it finished."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count == number:
                    os._exit(77)
                return real(*arguments, **named)

            return call

        for name in ("rename", "unlink", "fsync", "makedirs", "fchmod"):
            setattr(os, name, dying(getattr(os, name)))
        host.run = dying(host.run)  # type: ignore[method-assign]
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 77)
    return status == 0
