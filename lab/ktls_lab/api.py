# SPDX-License-Identifier: Apache-2.0
"""The lab as a library: start a fleet of VMs, reach them, break them, end them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ktls_lab import (
    accel,
    build,
    cache,
    content,
    identity,
    images,
    ports,
    process,
    qemu,
    qmp,
    snapshot,
    sshfiles,
    state,
    tools,
)
from ktls_lab import inventory as inventory_script
from ktls_lab import (
    kept as kept_labs,
)
from ktls_lab.channel import Channel
from ktls_lab.errors import LabError
from ktls_lab.paths import DEFAULT_LAB, check_lab_name, lab_dir
from ktls_lab.state import HostState, LabState

__all__ = ["FAULTS", "RIG_INTERFACE", "Lab", "LabError", "build_image", "down", "keep", "manifest", "up"]

FAULTS = ("link-down", "link-up", "power-cut", "freeze", "thaw", "reboot")
DEFAULT_IMAGE = "debian13"
MIB_PER_HOST_ON_DISK = 600
IDENTITY_TIMEOUT_S = 30.0
SSH_TIMEOUT_S = 60.0
PORT_ATTEMPTS = 5
RIG_INTERFACE = "sim0"

Say = Callable[[str], None]
manifest = content.manifest


def _silent(_line: str) -> None:
    """Progress goes nowhere."""


class Lab:
    """A lab that is up. Made by :func:`up` or :meth:`load`."""

    def __init__(self, lab: LabState) -> None:
        """Wrap a state that was read or made."""
        self._state = lab
        self._lock = threading.Lock()
        self.share_logins = False
        """Whether :meth:`ssh` keeps its connection for the next call: on an emulated host a login takes a second."""

    @classmethod
    def load(cls, name: str = DEFAULT_LAB) -> Lab:
        """Return the lab ``name``; LabError when there is none."""
        return cls(state.load(name))

    @property
    def name(self) -> str:
        """The lab's name."""
        return self._state.name

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return lab_dir(self._state.name)

    @property
    def ssh_config(self) -> Path:
        """Return the file for ``ssh -F``."""
        return self.directory / sshfiles.SSH_CONFIG

    @property
    def ca_dir(self) -> Path:
        """Directory of the lab's certificate authority; the first deploy makes it."""
        return self.directory / "ca"

    @property
    def hosts(self) -> tuple[HostState, ...]:
        """All hosts, in order."""
        return self._state.hosts

    @property
    def accelerator(self) -> str:
        """``kvm`` or ``tcg``."""
        return self._state.accelerator

    def host(self, name: str) -> HostState:
        """Return one host; LabError naming those there are."""
        return self._state.host(name)

    def https_port(self, name: str) -> int:
        """Port on 127.0.0.1 that leads to port 8443 of host ``name``."""
        return self._state.host(name).https_port

    def ssh_port(self, name: str) -> int:
        """Port on 127.0.0.1 that leads to port 22 of host ``name``."""
        return self._state.host(name).ssh_port

    def console(self, name: str) -> Path:
        """File that the serial console of host ``name`` is written to."""
        return self.directory / self._state.host(name).name / "console.log"

    def inventory(self) -> dict[str, Any]:
        """Return the Ansible inventory, as ``inventory/lab --list`` prints it."""
        return inventory_script.inventory(self._state)

    def ssh_argv(self, name: str, command: Sequence[str] | str = ()) -> list[str]:
        """Return the ssh command line for host ``name``; a sequence is quoted for the remote shell, a string is not."""
        remote = command if isinstance(command, str) else shlex.join(command)
        ssh = tools.find("ssh") or "ssh"
        return [ssh, "-F", str(self.ssh_config), self._state.host(name).name, *([remote] if remote else [])]

    def ssh(
        self, name: str, command: Sequence[str] | str, timeout: float = 60.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` on host ``name`` and return its result; never raises for its exit status (ssh's own is 255).

        Raises:
            LabError: it took longer than ``timeout`` seconds.
        """
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        argv = self.ssh_argv(name, command)
        if self.share_logins:
            options = ("ControlMaster=auto", "ControlPersist=120", f"ControlPath={self._login(name)}")
            argv[1:1] = [word for option in options for word in ("-o", option)]
        try:
            return subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                errors="replace",
                **given,
            )
        except subprocess.TimeoutExpired as error:
            words = command if isinstance(command, str) else shlex.join(command)
            message = f"{name}: no end of '{words}' after {timeout:.0f} s"
            raise LabError(message) from error

    def _login(self, name: str) -> Path:
        return Path(self._state.run_dir) / f"{name}.ssh"

    def _end_login(self, name: str) -> None:
        """End the connection that is kept: after a fault it would only hang."""
        if self._login(name).exists():
            argv = self.ssh_argv(name)
            argv[1:1] = ["-o", f"ControlPath={self._login(name)}", "-O", "exit"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)

    def power(self, name: str) -> str:
        """State of the VM ``name``: ``running``, ``frozen`` or ``off``."""
        self._refresh()
        host = self._state.host(name)
        if not self._alive(host):
            return "off"
        with qmp.Qmp(self._machine(host).qmp) as monitor:
            return "running" if monitor.execute("query-status")["status"] == "running" else "frozen"

    def fault(self, name: str, kind: str) -> None:
        """Break or mend host ``name``; ``kind`` is one of FAULTS.

        ``link-down`` and ``link-up`` pull and plug all its network cables. ``power-cut`` ends the VM as a power cut
        would; it stays off until ``reboot``. ``freeze`` stops its CPU, ``thaw`` lets it run on and sets its clock.
        ``reboot`` starts a host that is off, presses the reset button of one that runs, and waits for ssh.

        Raises:
            LabError: unknown kind or host, or the VM is not in a state that allows it.
        """
        if kind not in FAULTS:
            message = f"unknown fault {kind!r}: choose one of {', '.join(FAULTS)}"
            raise LabError(message)
        self._refresh()
        host = self._state.host(name)
        self._end_login(name)
        if kind == "reboot":
            self._reboot(host)
            return
        if kind == "power-cut":
            self._power_cut(host)
            return
        if not self._alive(host):
            message = f"{name} is off: 'ktls lab fault {name} reboot --name {self.name}' starts it"
            raise LabError(message)
        machine = self._machine(host)
        with qmp.Qmp(machine.qmp) as monitor:
            if kind in {"link-down", "link-up"}:
                for netdev in (qemu.MGMT_NETDEV, qemu.PRIVATE_NETDEV):
                    monitor.execute("set_link", name=netdev, up=kind == "link-up")
                self._update(replace(host, link=kind == "link-up"))
            elif kind == "freeze":
                monitor.execute("stop")
            else:
                monitor.execute("cont")
        if kind == "thaw":
            self._set_clock(machine)

    def add_rig(self, name: str) -> None:
        """Put a played card with TLS offload, RIG_INTERFACE, over the private network card of host ``name``.

        It takes the private address over and comes again with each boot. Doing it twice is no harm.

        Raises:
            LabError: the host's image has no rig, or the kernel does not take the module.
        """
        done = self.ssh(name, "touch /etc/ktls-lab/rig && /usr/local/lib/ktls-lab/net && sync")
        if done.returncode != 0:
            words = " ".join(done.stderr.split()) or "no reason given"
            message = f"{name}: cannot set up the offload rig of image {self._state.host(name).image}: {words}"
            raise LabError(message)

    def down(self) -> None:
        """End the lab and remove all of it; also :func:`down`."""
        down(self.name)

    # How a VM of this lab runs.

    def _machine(self, host: HostState) -> qemu.Machine:
        directory = self.directory / host.name
        return qemu.Machine(
            name=host.name,
            uuid=host.uuid,
            disk=directory / "disk.qcow2",
            kernel=Path(host.kernel),
            initrd=Path(host.initrd),
            console=directory / "console.log",
            run_dir=Path(self._state.run_dir),
            memory_mib=host.memory_mib,
            accelerator=accel.BY_NAME[self._state.accelerator].arguments,
            mac=host.mac,
            mcast=self._state.mcast,
            forward=qemu.Forward(ssh=host.ssh_port, https=host.https_port),
        )

    def _refresh(self) -> None:
        """Read the state again: another command may have rebooted a host."""
        with self._lock:
            self._state = state.load(self.name)

    def _log(self, host: HostState) -> Path:
        return self.directory / host.name / "qemu.log"

    def _update(self, host: HostState, *, ready: bool | None = None) -> None:
        # Another command may change another host at the same time.
        with self._lock, cache.lock(self.directory / ".lock"):
            self._state = state.load(self.name).with_host(host)
            if ready is not None:
                self._state = replace(self._state, ready=ready)
            state.save(self._state)

    @staticmethod
    def _alive(host: HostState) -> bool:
        if host.pid is None or host.start_ticks is None:
            return False
        return process.is_alive(process.ProcessId(host.pid, host.start_ticks))

    def _start(self, host: HostState, *, restore: bool) -> HostState:
        """Start the VM and wait until QEMU answers; its process is on record as soon as it exists."""
        machine, log = self._machine(host), self._log(host)
        running = qemu.start(machine, log, restore=restore)
        host = replace(host, pid=running.pid, start_ticks=running.start_ticks, link=True)
        self._update(host)
        try:
            qmp.wait_for(machine.qmp, lambda: process.is_alive(running), 30.0).__exit__(None, None, None)
        except LabError as error:
            if process.is_alive(running):
                raise
            raise LabError(qemu.why_ended(machine, log)) from error
        return host

    def _power_cut(self, host: HostState) -> None:
        if host.pid is not None and host.start_ticks is not None:
            stuck = process.kill([process.ProcessId(host.pid, host.start_ticks)])
            if stuck:
                message = f"the VM of {host.name} (process {host.pid}) does not end: the kernel holds it"
                raise LabError(message)

    def _reboot(self, host: HostState) -> None:
        if not Path(host.kernel).is_file():
            message = (
                f"cannot boot {host.name}: its image is gone from the cache ({Path(host.kernel).parent}): "
                f"'ktls lab down --name {self.name}', then 'ktls lab up'"
            )
            raise LabError(message)
        if not self._alive(host):
            for port in (host.ssh_port, host.https_port):
                if not ports.is_free(port):
                    message = (
                        f"cannot boot {host.name}: another program took its port 127.0.0.1:{port}: end it "
                        f"('ss -ltnp sport = :{port}' names it), then reboot again"
                    )
                    raise LabError(message)
            self._start(host, restore=False)
        elif not host.link:
            message = f"the link of {host.name} is down: 'ktls lab fault {host.name} link-up' before reboot"
            raise LabError(message)
        else:
            with qmp.Qmp(self._machine(host).qmp) as monitor:
                monitor.execute("system_reset")
                monitor.execute("cont")
        self.wait_ssh(host.name, snapshot.BOOT_TIMEOUT_S * accel.BY_NAME[self.accelerator].slowness)

    def _set_clock(self, machine: qemu.Machine) -> None:
        try:
            with Channel(machine.channel) as channel:
                channel.request({"verb": "time", "time": time.time()}, IDENTITY_TIMEOUT_S)
        except OSError as error:
            message = f"{machine.name}: cannot set the clock: its resident does not answer ({error or 'timeout'})"
            raise LabError(message) from error

    def _identify(self, host: HostState, own: identity.Identity, everyone: list[identity.Identity]) -> None:
        """Give a restored clone its identity and check that it took it."""
        machine = self._machine(host)
        keys = self.directory / host.name / "ssh_host_ed25519_key"
        try:
            with Channel(machine.channel) as channel:
                request = identity.message(own, everyone, keys, (self.directory / sshfiles.LAB_KEY).with_suffix(".pub"))
                answer = channel.request(request, IDENTITY_TIMEOUT_S)
        except OSError as error:
            message = f"{host.name} does not take its identity ({error or 'no answer'}); console: {machine.console}"
            raise LabError(message) from error
        if (answer["hostname"], answer["machine_id"]) != (host.name, host.machine_id):
            message = f"{host.name} took the identity of {answer['hostname']} ({answer['machine_id']})"
            raise LabError(message)

    def wait_ssh(self, name: str, timeout_s: float = SSH_TIMEOUT_S) -> None:
        """Wait until host ``name`` lets us log in.

        Raises:
            LabError: it does not within ``timeout_s`` (with ssh's own last words).
        """
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            words = "no answer"
            with contextlib.suppress(LabError):
                run = self.ssh(name, ["true"], timeout=max(1.0, min(left, 20.0)))
                if run.returncode == 0:
                    return
                words = " ".join(run.stderr.split()) or words
            if time.monotonic() > deadline or not self._alive(self._state.host(name)):
                message = f"{name}: no ssh login after {timeout_s:.0f} s ({words}); console: {self.console(name)}"
                raise LabError(message)
            time.sleep(0.2)


def build_image(name: str, say: Say = _silent) -> Path:
    """Build the image ``name`` and its snapshot if the cache lacks them; returns the image's directory.

    Raises:
        LabError: see :func:`ktls_lab.build.ensure` and :func:`ktls_lab.snapshot.ensure`.
    """
    built, _, _ = _prepare(name, say)
    return built.directory


def _prepare(name: str, say: Say) -> tuple[build.BuiltImage, accel.Accelerator, Path]:
    tools.require(tools.RUN_TOOLS)
    built = build.ensure(images.load(name), say)
    accelerator = accel.choose(built.kernel, built.initrd)
    return built, accelerator, snapshot.ensure(built, accelerator, say)


def _copy_disk(source: Path, target: Path) -> None:
    cp = str(tools.find("cp"))
    run = subprocess.run(
        [cp, "--reflink=auto", "--sparse=auto", str(source), str(target)], capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        message = f"cannot copy the snapshot to {target.parent}: {' '.join(run.stderr.split())}"
        raise LabError(message)


def _check_room(count: int, memory_mib: int, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    free_mib = shutil.disk_usage(place).free >> 20
    if free_mib < count * MIB_PER_HOST_ON_DISK:
        message = (
            f"disk full: {count} hosts need {count * MIB_PER_HOST_ON_DISK} MiB in {place}, {free_mib} are free: "
            "free some space or set KTLS_LAB_DIR to another disk"
        )
        raise LabError(message)
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) >> 10 for line in file if line.startswith("MemAvailable:"))
    if available < memory_mib:
        message = f"not enough memory: the hosts need {memory_mib} MiB, {available} are available: start fewer --hosts"
        raise LabError(message)


def up(
    name: str = DEFAULT_LAB,
    hosts: int = 3,
    image: str | Sequence[str] = DEFAULT_IMAGE,
    say: Say = _silent,
    kept: Path | None = None,
    *,
    rig: bool = False,
) -> Lab:
    """Start a lab of ``hosts`` VMs and return it when each lets us log in over ssh.

    ``image`` is one image for all, or a list with one for each host. What the cache lacks is made first.
    With ``kept``, where :func:`keep` has put a lab, its hosts go on from there; they must be as many, of these images.
    ``rig`` as :meth:`Lab.add_rig` on each.
    When it fails, or is interrupted, nothing is left running.

    Raises:
        LabError: the name is taken, there is no room, or a host did not start.
    """
    wanted = [image] * hosts if isinstance(image, str) else list(image)
    if not 1 <= len(wanted) <= identity.MAX_HOSTS or (not isinstance(image, str) and len(wanted) != hosts):
        message = f"cannot start {hosts} hosts of {len(wanted)} images: 1 to {identity.MAX_HOSTS} hosts, one image each"
        raise LabError(message)
    if state.exists(check_lab_name(name)):
        raise state.busy(name)
    without = [wish for wish in dict.fromkeys(wanted) if rig and not images.load(wish).rig]
    if without:
        able = [image for image in images.names(opt_in=True) if images.load(image).rig]
        message = f"image {without[0]} has no offload rig (rig: true in its definition): choose of {', '.join(able)}"
        raise LabError(message)
    prepared = {wish: _prepare(wish, say) for wish in dict.fromkeys(wanted)}
    _check_room(len(wanted), sum(prepared[wish][0].image.memory_mib for wish in wanted), lab_dir(name).parent)
    started = time.monotonic()
    identities = [identity.create(index) for index in range(1, len(wanted) + 1)]
    if kept is not None:
        before = kept_labs.load(kept)
        if [host.image for host in before.hosts] != wanted:
            message = f"the lab in {kept} has {', '.join(host.image for host in before.hosts)}, not {', '.join(wanted)}"
            raise LabError(message)
        identities = kept_labs.identities(before)
    port = ports.free_ports()
    token = secrets.token_hex(4)
    new = LabState(
        name=name,
        created_at=time.time(),
        run_dir=str(Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"ktls-lab-{token}"),
        mcast=identity.mcast_group(),
        accelerator=next(iter(prepared.values()))[1].name,
        ready=False,
        hosts=tuple(
            HostState(
                name=own.name, index=own.index, fqdn=own.fqdn, address=own.address, mac=own.mac,
                machine_id=own.machine_id, uuid=str(uuid.uuid4()), image=wish,
                kernel=str(prepared[wish][0].kernel), initrd=str(prepared[wish][0].initrd),
                memory_mib=prepared[wish][0].image.memory_mib, ssh_port=next(port), https_port=next(port),
            )
            for own, wish in zip(identities, wanted)
        ),
    )  # fmt: skip
    state.claim(new)
    try:
        lab = Lab(new)
        Path(new.run_dir).mkdir(mode=0o700)
        if kept is None:
            identity.keygen(lab.directory / sshfiles.LAB_KEY, f"ktls lab {name}")
            disks = {own.name: prepared[wish][2] for own, wish in zip(identities, wanted)}
        else:
            kept_labs.copy_keys(lab.hosts, kept, lab.directory)
            if (kept / kept_labs.CA).is_dir():
                shutil.copytree(kept / kept_labs.CA, lab.ca_dir)
            disks = {own.name: kept / own.name / "disk.qcow2" for own in identities}
        _start_all(lab, identities, disks, port, say, known=kept is not None)
        if rig:
            for own in identities:
                lab.add_rig(own.name)
            say(f"lab {name}: a played card with TLS offload, {RIG_INTERFACE}, is on the private network of each host")
    except LabError as error:
        # What the message points to moves with the logs.
        message = str(error).replace(str(lab_dir(name)), str(_keep_logs(name)))
        down(name)
        raise LabError(message) from error
    except BaseException:
        down(name)
        raise
    say(f"lab {name}: {len(wanted)} hosts up in {time.monotonic() - started:.1f} s")
    return lab


def _start_all(
    lab: Lab,
    identities: list[identity.Identity],
    disks: dict[str, Path],
    port: Iterator[int],
    say: Say,
    *,
    known: bool,
) -> None:
    """Restore all hosts; those that are ``known`` have their identity already, and lack the time alone."""
    public_keys: dict[str, str] = {}
    ports_lock = threading.Lock()

    def restore(own: identity.Identity) -> None:
        host = lab.host(own.name)
        directory = lab.directory / own.name
        directory.mkdir(exist_ok=known)
        keys = directory / "ssh_host_ed25519_key"
        if not known:
            identity.keygen(keys, own.name)
        public_keys[own.name] = keys.with_suffix(".pub").read_text(encoding="ascii")
        _copy_disk(disks[own.name], directory / "disk.qcow2")
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                host = lab._start(host, restore=True)
                break
            except LabError as error:
                # Another program took the port since we looked: take others.
                if "host forwarding rule" not in str(error) or attempt == PORT_ATTEMPTS:
                    raise
                with ports_lock:
                    host = replace(host, ssh_port=next(port), https_port=next(port))
        if known:
            lab._set_clock(lab._machine(host))
        else:
            lab._identify(host, own, identities)
        say(f"lab {lab.name}: {own.name} restored, {own.address}")

    with ThreadPoolExecutor(max_workers=min(4, len(identities))) as pool:
        list(pool.map(restore, identities))
        known_hosts = sshfiles.known_hosts(lab._state, public_keys)
        (lab.directory / sshfiles.KNOWN_HOSTS).write_text(known_hosts, encoding="ascii")
        lab.ssh_config.write_text(sshfiles.ssh_config(lab._state, lab.directory), encoding="utf-8")
        list(pool.map(lambda own: lab.wait_ssh(own.name), identities))
    lab._update(lab.host(identities[0].name), ready=True)


def _keep_logs(name: str) -> Path:
    """Keep the logs of a lab that failed to start, the only witnesses; returns where."""
    place = lab_dir(name).parent / f".failed-{name}"
    shutil.rmtree(place, ignore_errors=True)
    for log in sorted(lab_dir(name).glob("*/*.log")):
        with contextlib.suppress(OSError):
            (place / log.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, place / log.parent.name / log.name)
    return place


def keep(name: str, place: Path) -> None:
    """Save every VM of lab ``name`` as it runs now, put them into the directory ``place``, and end the lab.

    Raises:
        LabError: no such lab, or a host that does not run.
    """
    lab = Lab.load(name)
    try:
        for host in lab.hosts:
            if not Lab._alive(host) or host.pid is None or host.start_ticks is None:
                message = f"{host.name} is off: only running hosts can be kept"
                raise LabError(message)
            kept_labs.save_vm(lab._machine(host), process.ProcessId(host.pid, host.start_ticks))
        kept_labs.store(lab._state, lab.directory, place)
    finally:
        down(name)


def down(name: str = DEFAULT_LAB) -> bool:
    """End every VM of lab ``name`` and remove its files; it may be half started, crashed or gone.

    Returns:
        False when there was nothing to do.

    Raises:
        LabError: a process does not end.
    """
    directory = lab_dir(name)
    if not directory.is_dir():
        return False
    run_dir = None
    with contextlib.suppress(LabError):
        run_dir = Path(state.load(name).run_dir)
    stuck = process.kill(process.qemu_using(directory))
    if stuck:
        message = f"process {stuck[0].pid} of lab '{name}' does not end: the kernel holds it; try again later"
        raise LabError(message)
    if run_dir is not None and run_dir.name.startswith("ktls-lab-"):
        shutil.rmtree(run_dir, ignore_errors=True)
    # State last: a crash in here must leave a lab that 'down' still finds.
    shutil.rmtree(directory)
    return True
