# SPDX-License-Identifier: Apache-2.0
"""``ktls-off``: it works when little else does."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "agent/units/ktls-off"
SHELLS = ("dash", "busybox sh", "bash")
BOOT = "11111111-2222-3333-4444-555555555555"
NOW = "1000.50"


def off(root: Path, *arguments: str, shell: str = "dash") -> subprocess.CompletedProcess[str]:
    # An empty environment but for the prefix: a boot check or a rescue shell has no more.
    environment = {"KTLS_OFF_PREFIX": str(root), "PATH": ""}
    program, *more = shell.split()
    return subprocess.run(
        [f"/bin/{program}", *more, str(SCRIPT), *arguments],
        env=environment, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def steps(root: Path) -> dict[str, str]:
    """The record: step to its result and detail."""
    lines = (root / "run/ktls/revert").read_text().splitlines()
    return {step: rest for step, _, rest in (line.partition(" ") for line in lines)}


def lease(root: Path, deadline: str = "999.00", boot: str = BOOT, text: str | None = None) -> Path:
    whole = f"id=roll-7\nepoch=42\nboot_id={boot}\ndeadline_s={deadline}\n"
    return write(root / "var/lib/ktls/lease", whole if text is None else text)


def interface(root: Path, name: str) -> None:
    """An interface that the offload lever has changed."""
    (root / "sys/class/net" / name).mkdir(parents=True)
    write(root / f"var/lib/ktls-levers/offload:{name}.json", "{}")


def ethtool(root: Path, *, after: str = "off", body: str = "") -> Path:
    """A fake ethtool that notes its calls; TLS features are ``after`` once -K was called."""
    log = root / "ethtool.log"
    script = f'#!/bin/sh\necho "$@" >>{log}\n{body}\n[ "$1" = -K ] || echo "tls-hw-tx-offload: {after}"\n'
    write(root / "sbin/ethtool", script, 0o755)
    return log


def text(path: Path) -> str:
    """A file of /proc; empty when its process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def flag(root: Path, name: str = "lapsed") -> bool:
    return os.path.lexists(root / "run/ktls" / name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "run/ktls").mkdir(parents=True)
    (tmp_path / "var/lib/ktls").mkdir(parents=True)
    write(tmp_path / "proc/uptime", f"{NOW} 2000.00\n")
    write(tmp_path / "proc/sys/kernel/random/boot_id", f"{BOOT}\n")
    return tmp_path


@pytest.mark.parametrize("shell", SHELLS)
def test_sets_both_flags_with_a_reason_and_says_so_in_one_line(root: Path, shell: str) -> None:
    done = off(root, "disk", "on fire", shell=shell)
    assert done.returncode == 0, done.stderr
    assert (root / "run/ktls/off").read_text() == "disk on fire\n"
    assert (root / "var/lib/ktls/off").read_text() == "disk on fire\n"
    assert done.stdout.count("\n") == 1
    assert "OFF is set" in done.stdout
    assert done.stderr == ""


def test_needs_no_directory_and_repeats(tmp_path: Path) -> None:
    first = off(tmp_path)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "run/ktls/off").exists()
    assert "a reboot would forget it" in first.stdout
    assert off(tmp_path).returncode == 0


def test_runs_no_python_and_nothing_outside_a_bare_system() -> None:
    used = set(SCRIPT.read_text().replace("(", " ").split())
    assert SCRIPT.read_text().startswith("#!/bin/sh\n")
    assert not used & {"python", "python3", "curl", "ip", "awk", "sed", "mktemp", "sync"}
    assert SCRIPT.stat().st_mode & 0o777 == 0o755


def test_mistyped_option_switches_off_all_the_same(root: Path) -> None:
    done = off(root, "--now", "why")
    assert done.returncode == 0
    assert (root / "run/ktls/off").read_text() == "why\n"
    assert "--now ignored" in done.stderr


def test_status_shows_and_changes_nothing(root: Path) -> None:
    done = off(root, "--status")
    assert done.returncode == 1
    assert done.stdout.count("not set") == 2
    assert not (root / "run/ktls/off").exists()
    (root / "var/lib/ktls/off").symlink_to("nowhere")
    done = off(root, "--status")
    assert done.returncode == 0
    assert "/var/lib/ktls/off: set" in done.stdout


def test_never_writes_through_a_link(root: Path) -> None:
    precious = root / "precious"
    (root / "run/ktls/off").symlink_to(precious)
    assert off(root, "x").returncode == 0
    assert not precious.exists()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight blocks."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k,nr_inodes=32", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=False)
        subprocess.run(["umount", str(mount)], check=True)


def fill(directory: Path) -> None:
    with pytest.raises(OSError, match="No space"), (directory / "ballast").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 512)


def test_full_disk(tiny: Path) -> None:
    (tiny / "run/ktls").mkdir(parents=True)
    (tiny / "var/lib/ktls").mkdir(parents=True)
    fill(tiny)
    done = off(tiny, "a reason that finds no block")
    assert done.returncode == 0, done.stderr
    assert (tiny / "run/ktls/off").exists()
    assert (tiny / "var/lib/ktls/off").exists()
    assert done.stderr == ""


def test_full_or_read_only_durable_disk_does_not_stop_it(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "run/ktls").mkdir(parents=True)
    (tmp_path / "var/lib").mkdir(parents=True)
    (tiny / "ktls").mkdir()
    (tmp_path / "var/lib/ktls").symlink_to(tiny / "ktls")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    done = off(tmp_path, "why")
    assert done.returncode == 0
    assert (tmp_path / "run/ktls/off").exists()
    assert "a reboot would forget it" in done.stdout


def test_fails_only_when_the_acting_flag_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the directory should be")
    done = off(tmp_path)
    assert done.returncode == 1
    assert "FAILED" in done.stderr
    assert "systemctl stop ktls-sidecar" in done.stderr
    assert done.stderr.count("\n") == 1


# The revert steps


@pytest.mark.parametrize("shell", SHELLS)
def test_every_step_is_recorded_in_its_order(root: Path, shell: str) -> None:
    interface(root, "eth0")
    interface(root, "eth1")
    log = ethtool(root)
    write(root / "proc/net/tls_stat", "TlsCurrTxSw \t3\nTlsCurrRxSw\t0\nTlsCurrTxDevice\t0\nTlsTxSw\t900\n")
    write(root / "sys/module/tls/refcnt", "3\n")
    assert off(root, "why", shell=shell).returncode == 0
    lines = (root / "run/ktls/revert").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["nic", "rx", "tx", "policy", "module"]
    found = steps(root)
    assert found["nic"] == "ok off: eth0 eth1"
    assert found["rx"] == "ok flag; TlsCurrRxSw=0"
    assert found["tx"] == "draining flag; TlsCurrTxSw=3 TlsCurrTxDevice=0"
    assert found["policy"].startswith("kept ")
    assert found["module"] == "kept not asked"
    assert log.read_text().splitlines()[:2] == ["-K eth0 tls-hw-tx-offload off tls-hw-rx-offload off", "-k eth0"]
    # Once more is the same.
    assert off(root, "again", shell=shell).returncode == 0
    assert steps(root) == found
    assert (root / "run/ktls/off").read_text() == "why\n", "the first reason stays"


def test_the_flag_is_up_before_the_first_step(root: Path) -> None:
    interface(root, "eth0")
    ethtool(root, body=f"[ -e {root}/run/ktls/off ] && [ -e {root}/var/lib/ktls/off ] || exit 9")
    assert off(root).returncode == 0
    assert steps(root)["nic"] == "ok off: eth0"


@pytest.mark.parametrize(
    ("body", "after", "said"),
    [
        ("", "on", "not off: eth0"),
        ("exit 1", "off", "not off: eth0"),
        ("trap '' TERM; sleep 60", "off", "not off: eth0(hung) eth1 eth2"),
    ],
)
def test_what_ethtool_does_not_do_is_named_and_holds_nothing_up(root: Path, body: str, after: str, said: str) -> None:
    for name in ("eth0", "eth1", "eth2"):
        interface(root, name)
    ethtool(root, after=after, body=body)
    start = time.monotonic()
    done = off(root)
    assert time.monotonic() - start < 4, "one hang of two seconds is enough"
    assert done.returncode == 0, "OFF is set all the same"
    assert "a later step failed: nic" in done.stderr
    assert steps(root)["nic"].startswith(f"failed {said}")
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(root / "sbin/ethtool") in text(path)]
    assert not left, "what hangs is killed"
    assert steps(root)["tx"].startswith("ok ")


def test_whoever_typed_it_may_be_gone(root: Path) -> None:
    interface(root, "eth0")
    # A hangup in the middle (its parents: the inner shell, timeout, ktls-off), and nobody who reads what it says.
    up = "p=$$; for _ in 1 2 3; do p=$(sed -n 's/^PPid:.//p' /proc/$p/status); done; "
    ethtool(root, body=f"{up} kill -HUP $p")
    reader, writer = os.pipe()
    os.close(reader)
    environment = {"KTLS_OFF_PREFIX": str(root)}
    done = subprocess.run(["/bin/dash", SCRIPT], env=environment, stdout=writer, stderr=subprocess.DEVNULL, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert list(steps(root)) == ["nic", "rx", "tx", "policy", "module"]


def test_a_child_that_outlives_a_killed_ethtool_holds_nothing_up(root: Path) -> None:
    interface(root, "eth0")
    ethtool(root, body="setsid sleep 8 & wait")
    start = time.monotonic()
    assert off(root).returncode == 0
    assert time.monotonic() - start < 4


def test_interfaces_that_are_gone_and_hosts_without_ethtool(root: Path, tmp_path: Path) -> None:
    interface(root, "eth0")
    (root / "sys/class/net/eth0").rmdir()
    assert off(root).returncode == 0
    assert steps(root)["nic"] == "ok off: eth0(gone)"
    # No program at all: what is built into a shell is enough for what counts.
    script = SCRIPT.read_text().replace("/usr/sbin:/usr/bin:/sbin:/bin", "/nowhere")
    bare = write(tmp_path / "bare-off", script, 0o755)
    (root / "run/ktls/revert").unlink()
    (root / "run/ktls/off").unlink()
    interface(root, "eth1")
    environment = {"KTLS_OFF_PREFIX": str(root)}
    done = subprocess.run(["/bin/dash", bare], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert flag(root, "off")
    assert steps(root)["nic"].startswith("skipped no ethtool for eth1")
    path = lease(root, "2000.00")
    precious = write(root / "precious", "precious")
    (root / "run/ktls/revert").unlink()
    (root / "run/ktls/revert").symlink_to(precious)
    done = subprocess.run(["/bin/dash", bare, "--lease"], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert flag(root), "a lease that cannot be read is over"
    assert path.exists()
    assert precious.read_text() == "precious", "nor is a link followed that cannot be removed"


def test_hostile_names_are_not_run(root: Path) -> None:
    log = ethtool(root)
    levers = root / "var/lib/ktls-levers"
    levers.mkdir()
    for name in ("$(touch pwned)", "-K", "a b", "..", "x;touch pwned", "", "*"):
        (levers / f"offload:{name}.json").touch()
    (levers / "module.json").touch()
    done = off(root)
    assert done.returncode == 0
    assert not log.exists()
    assert not list(root.rglob("pwned"))
    assert steps(root)["nic"] == "failed not off: ? ? ? ? ? ? ?"


@pytest.mark.parametrize("shell", SHELLS)
def test_module_goes_only_when_asked_and_unused(root: Path, shell: str) -> None:
    module = root / "sys/module/tls"
    write(root / "sbin/modprobe", f'#!/bin/sh\n[ "$*" = "-r tls" ] && rm -r {module}\n', 0o755)
    assert off(root, "--unload-module", shell=shell).returncode == 0
    assert steps(root)["module"] == "ok not loaded"
    write(module / "refcnt", "2\n")
    assert off(root, "--unload-module", shell=shell).returncode == 0
    assert steps(root)["module"] == "kept in use by 2"
    write(module / "refcnt", "0\n")
    assert off(root, shell=shell).returncode == 0
    assert steps(root)["module"] == "kept not asked"
    assert off(root, "--unload-module", "why", shell=shell).returncode == 0
    assert steps(root)["module"] == "ok unloaded"
    module.mkdir()
    assert off(root, "--unload-module", shell=shell).returncode == 0
    assert steps(root)["module"] == "kept built into the kernel"
    write(module / "refcnt", "0\n")
    write(root / "sbin/modprobe", "#!/bin/sh\nexit 1\n", 0o755)
    done = off(root, "--unload-module", shell=shell)
    assert (done.returncode, steps(root)["module"]) == (0, "failed modprobe -r tls failed")
    assert "a later step failed: module" in done.stderr


def test_record_is_never_written_through_a_link(root: Path) -> None:
    precious = write(root / "precious", "precious")
    (root / "run/ktls/revert").symlink_to(precious)
    assert off(root).returncode == 0
    assert precious.read_text() == "precious"
    assert "policy" in steps(root)
    (root / "run/ktls/revert").unlink()
    (root / "run/ktls/revert").mkdir()
    done = off(root)
    assert (done.returncode, done.stderr) == (0, ""), "a record that cannot be written is no failure"


# The lease


@pytest.mark.parametrize("shell", SHELLS)
def test_no_lease_and_a_running_lease_change_nothing(root: Path, shell: str) -> None:
    def files() -> list[str]:
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))

    before = files()
    done = off(root, "--lease", shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert files() == before
    for deadline in ("1000.51", "1001.00", "1300.08", "1000.59"):
        lease(root, deadline)
        done = off(root, "--lease", shell=shell)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), deadline
        assert not flag(root)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("deadline", ["1000.50", "1000.49", "1000.08", "999.99", "0.00", "08.09"])
def test_a_lease_that_is_over_is_undone(root: Path, shell: str, deadline: str) -> None:
    path = lease(root, deadline)
    interface(root, "eth0")
    ethtool(root)
    done = off(root, "--lease", shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "its lease is over" in done.stdout
    assert flag(root)
    assert not flag(root, "off"), "an order that lapses is not the kill switch"
    assert not (root / "var/lib/ktls/off").exists()
    assert not path.exists()
    assert f"deadline_s={deadline}" in (root / "var/lib/ktls/lease.reverted").read_text()
    found = steps(root)
    assert list(found) == ["order", "flag", "nic", "rx", "tx", "policy", "module", "lease"]
    assert found["order"].startswith(f"lapsed id=roll-7 epoch=42 deadline_s={deadline}: ")
    assert found["nic"] == "ok off: eth0"
    assert found["lease"].startswith("reverted ")
    assert not list((root / "run/ktls").glob("revert.try*"))
    # The next tick finds nothing to do.
    assert off(root, "--lease", shell=shell).stdout == ""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\0\0\0",
        "id=a\nepoch=1\nboot_id={boot}\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=2000.5\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=2000\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=1e9.00\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=-5.00\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=99999999.00\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=99999999999999999999.00\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=x[$(touch pwned)].00\n",
        "id=a\nepoch=x\nboot_id={boot}\ndeadline_s=2000.00\n",
        "id=$(touch pwned)\nepoch=1\nboot_id={boot}\ndeadline_s=2000.00\n",
        "id=a b\nepoch=1\nboot_id={boot}\ndeadline_s=2000.00\n",
        "id=a\nepoch=1\nboot_id=*\ndeadline_s=2000.00\n",
        "id=a\nepoch=1\nboot_id={boot}\ndeadline_s=2000.00\nmore=1\n",
        "id=a\nid=a\nepoch=1\ndeadline_s=2000.00\n",
        "garbage\n" * 500,
    ],
)  # fmt: skip
def test_a_damaged_lease_is_over(root: Path, shell: str, text: str) -> None:
    lease(root, text=text.replace("{boot}", BOOT))
    done = off(root, "--lease", shell=shell)
    assert done.returncode == 0, done.stderr
    assert flag(root)
    assert (root / "var/lib/ktls/lease.reverted").exists()
    assert not list(root.rglob("pwned"))
    assert not list(Path.cwd().glob("pwned"))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("deadline", "meanwhile"),
    [
        ("2000.00", 'rm {lease}; exec /bin/dd "$@"'),
        ("999.00", '/bin/dd "$@"; rm {lease}'),
        ("999.00", '/bin/dd "$@"; sed -i s/999.00/2000.00/ {lease}'),
    ],
    ids=["confirmed before it is read", "confirmed after it was read", "extended after it was read"],
)
def test_a_lease_that_the_agent_deals_with_meanwhile_is_not_over(
    root: Path, deadline: str, meanwhile: str, shell: str
) -> None:
    write(root / "sbin/dd", f"#!/bin/sh\n{meanwhile.format(lease=lease(root, deadline))}\n", 0o755)
    done = off(root, "--lease", shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not flag(root), "kTLS that was confirmed stays"


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "dangling", "endless"])
def test_a_lease_that_is_no_file_is_over_and_cannot_hang_it(root: Path, kind: str) -> None:
    path = root / "var/lib/ktls/lease"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(lease(root, "2000.00").rename(root / "elsewhere"))
    elif kind == "dangling":
        path.symlink_to(root / "nowhere")
    else:
        with path.open("wb") as stream:
            stream.truncate(1 << 40)
    start = time.monotonic()
    done = off(root, "--lease")
    assert (done.returncode, time.monotonic() - start < 3) == (0, True), done.stderr
    assert flag(root)
    assert not os.path.lexists(path)
    if kind == "link":
        assert (root / "elsewhere").exists(), "the link is put away, not what it points to"


@pytest.mark.parametrize("shell", SHELLS)
def test_without_its_clock_or_boot_id_a_lease_is_over(root: Path, shell: str) -> None:
    lease(root, "2000.00")
    (root / "proc/uptime").write_text("")
    assert off(root, "--lease", shell=shell).returncode == 0
    assert flag(root)
    assert "the clock cannot be read" in (root / "run/ktls/lapsed").read_text()
    (root / "run/ktls/lapsed").unlink()
    write(root / "proc/uptime", f"{NOW} 1.00\n")
    lease(root, "2000.00", boot="22222222-2222-3333-4444-555555555555")
    assert off(root, "--lease", shell=shell).returncode == 0
    assert flag(root)
    assert "before this boot" in (root / "run/ktls/lapsed").read_text()


def test_a_state_directory_that_is_gone_counts_as_a_lease_that_is_over(root: Path) -> None:
    (root / "var/lib/ktls").rmdir()
    for _ in range(3):
        assert off(root, "--lease").returncode == 0
        assert flag(root)
    assert not list((root / "run/ktls").glob("revert.try*"))


@pytest.mark.parametrize("shell", SHELLS)
def test_boot_undoes_every_lease_whatever_it_says(root: Path, shell: str) -> None:
    assert off(root, "--boot", shell=shell).returncode == 0
    assert not flag(root)
    for boot, text in ((BOOT, None), ("another", None), (BOOT, "damaged")):
        lease(root, "2000.00", boot=boot, text=text)
        assert off(root, "--boot", shell=shell).returncode == 0
        assert flag(root)
        assert not flag(root, "off")
        assert not (root / "var/lib/ktls/lease").exists()
        (root / "run/ktls/lapsed").unlink()
    (root / "var/lib/ktls/lease.reverted").unlink()
    (root / "var/lib/ktls").rmdir()
    assert off(root, "--boot", shell=shell).returncode == 0
    assert flag(root), "a disk that is not there may hold a lease"


def test_needs_no_run_directory(root: Path) -> None:
    lease(root)
    (root / "run/ktls").rmdir()
    assert off(root, "--lease").returncode == 0
    assert flag(root)


@pytest.mark.parametrize("shell", SHELLS)
def test_read_only_var_leaves_the_lease_and_is_done_once(root: Path, tiny: Path, shell: str) -> None:
    (tiny / "ktls").mkdir()
    (root / "var/lib/ktls").rmdir()
    (root / "var/lib/ktls").symlink_to(tiny / "ktls")
    path = lease(root)
    interface(root, "eth0")
    log = ethtool(root)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    done = off(root, "--lease", shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert flag(root)
    assert path.exists()
    assert steps(root)["lease"].startswith("left ")
    calls = log.read_text()
    for _ in range(3):
        done = off(root, "--lease", shell=shell)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert log.read_text() == calls, "what is done is not done again each second"
    # Another order, and its lease: that one is undone again.
    subprocess.run(["mount", "-o", "remount,rw", str(tiny)], check=True)
    (root / "run/ktls/lapsed").unlink()
    lease(root, "999.50")
    assert off(root, "--lease", shell=shell).returncode == 0
    assert flag(root)
    assert log.read_text() != calls


@pytest.mark.parametrize("shell", SHELLS)
def test_full_disks_do_not_stop_it(tiny: Path, shell: str) -> None:
    for directory in ("run/ktls", "var/lib/ktls", "proc/sys/kernel/random"):
        (tiny / directory).mkdir(parents=True)
    write(tiny / "proc/uptime", f"{NOW} 2000.00\n")
    write(tiny / "proc/sys/kernel/random/boot_id", f"{BOOT}\n")
    path = lease(tiny)
    fill(tiny)
    done = off(tiny, "--lease", shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tiny / "run/ktls/lapsed").exists()
    assert not path.exists()
    assert off(tiny, "--lease", shell=shell).stdout == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_five_failing_tries_end_in_stuck_and_silence(root: Path, shell: str) -> None:
    path = lease(root)
    interface(root, "eth0")
    log = ethtool(root, after="on")
    for count in range(1, 6):
        done = off(root, "--lease", shell=shell)
        assert done.returncode == 1, "systemd shows a failed unit"
        assert "FAILED: nic" in done.stderr
        assert flag(root), "userspace from the first try on"
        assert steps(root)["lease"] == "pending failed: nic"
        assert log.read_text().count("-K") == count
    done = off(root, "--lease", shell=shell)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "STUCK" in done.stderr
    assert "id=roll-7" in (root / "run/ktls/stuck").read_text()
    assert "stuck: set" in off(root, "--status", shell=shell).stdout
    for _ in range(2):
        done = off(root, "--lease", shell=shell)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert log.read_text().count("-K") == 5
    assert path.exists(), "the agent accounts for it"
    (root / "run/ktls/lapsed").unlink()
    assert off(root, "--lease", shell=shell).returncode == 0
    assert flag(root), "the flag is kept up even then"
    # Another order forgets the tries of this one.
    lease(root, "1500.00")
    assert off(root, "--lease", shell=shell).returncode == 0
    assert not list((root / "run/ktls").glob("revert.try*"))


def test_a_try_that_was_killed_counts_and_the_next_one_completes(root: Path) -> None:
    lease(root)
    interface(root, "eth0")
    # Its parents: the inner shell, timeout, ktls-off; that one first. None is left to go on beside the next try.
    up = "p=$$; all=; for _ in 1 2 3; do p=$(sed -n 's/^PPid:.//p' /proc/$p/status); all=\"$p $all\"; done; "
    ethtool(root, body=f"{up} kill -KILL $all")
    assert off(root, "--lease").returncode == -9
    assert flag(root)
    assert flag(root, "revert.try1")
    ethtool(root)
    assert off(root, "--lease").returncode == 0
    assert not (root / "var/lib/ktls/lease").exists()
    assert not flag(root, "revert.try1")


def test_a_flag_that_cannot_be_made_is_tried_for_ever(root: Path) -> None:
    lease(root)
    (root / "run/ktls").rmdir()
    (root / "run/ktls").write_text("a file where the directory should be")
    for _ in range(7):
        done = off(root, "--lease")
        assert done.returncode == 1
        assert "FAILED: flag" in done.stderr
    assert (root / "var/lib/ktls/lease").exists()


def test_a_directory_does_not_swallow_the_lease(root: Path) -> None:
    path = lease(root)
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    reverted = root / "var/lib/ktls/lease.reverted"
    reverted.symlink_to(elsewhere)
    assert off(root, "--lease").returncode == 0
    assert not list(elsewhere.iterdir())
    assert reverted.is_file()
    assert not reverted.is_symlink()
    reverted.unlink()
    reverted.mkdir()
    (reverted / "x").touch()
    lease(root)
    assert off(root, "--lease").returncode == 0
    assert path.exists()
    assert steps(root)["lease"].startswith("left ")
