# SPDX-License-Identifier: Apache-2.0
"""``ktls lab build|up|status|ssh|down|fault``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ktls_lab import api, images, state
from ktls_lab.errors import LabError
from ktls_lab.paths import DEFAULT_LAB

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``lab`` and its verbs to the ``ktls`` command."""
    parser = subparsers.add_parser("lab", help="a fleet of real VMs on this machine")
    add_verbs(parser.add_subparsers(dest="lab_verb", metavar="VERB", required=True))


def add_verbs(verbs: Subparsers) -> None:
    """Add the verbs; each sets ``func``, which takes the options and returns an exit status."""
    build = verbs.add_parser("build", help="build images and their snapshots")
    which = build.add_mutually_exclusive_group()
    which.add_argument("--image", metavar="NAME", help=f"one image (default {api.DEFAULT_IMAGE})")
    which.add_argument("--all", action="store_true", help="every image in lab/images that is not opt_in")
    build.set_defaults(func=_guarded(_build))

    up = verbs.add_parser("up", help="start a lab")
    _name(up)
    up.add_argument("--hosts", type=_count, default=None, metavar="N", help="number of hosts (default 3)")
    up.add_argument(
        "--image",
        action="append",
        metavar="NAME",
        help=f"image of the hosts (default {api.DEFAULT_IMAGE}); repeat it to give each host its own",
    )
    up.add_argument(
        "--rig",
        action="store_true",
        help=f"put {api.RIG_INTERFACE}, a played network card with TLS offload, over each host's private one",
    )
    up.set_defaults(func=_guarded(_up))

    status = verbs.add_parser("status", help="show the labs and their hosts")
    status.add_argument("--name", default=None, help="only this lab (default: all)")
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(func=_guarded(_status))

    ssh = verbs.add_parser("ssh", help="log in to a host, or run a command there")
    _name(ssh)
    ssh.add_argument("host", metavar="HOST")
    ssh.add_argument("command", nargs="*", metavar="-- CMD", help="command and its arguments, after --")
    ssh.set_defaults(func=_guarded(_ssh))

    down = verbs.add_parser("down", help="end a lab and remove all of it")
    which = down.add_mutually_exclusive_group()
    _name(which)
    which.add_argument("--all", action="store_true", help="every lab of this project")
    down.set_defaults(func=_guarded(_down))

    fault = verbs.add_parser("fault", help="break or mend a host")
    _name(fault)
    fault.add_argument("host", metavar="HOST")
    fault.add_argument("kind", choices=api.FAULTS, metavar="KIND", help=", ".join(api.FAULTS))
    fault.set_defaults(func=_guarded(_fault))


def _name(parser: Any) -> None:
    parser.add_argument("--name", default=DEFAULT_LAB, help=f"the lab's name (default {DEFAULT_LAB})")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        message = f"{text!r} is not a number of hosts"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _guarded(verb: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Turn the errors a user can cause into one line and exit status 1."""

    def run(options: argparse.Namespace) -> int:
        # As Ctrl-C: what was started half is taken down again.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        try:
            return verb(options)
        except BrokenPipeError:  # the reader of our output (head, say) had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (LabError, OSError) as error:
            sys.stderr.write(f"ktls lab: {' '.join(str(error).split())}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("ktls lab: interrupted\n")
            return 130

    return run


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show what goes on: one live line on a terminal, else a line for each step."""
    if not sys.stderr.isatty():
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as spinner:

        def say(line: str) -> None:
            console.print(line, highlight=False, markup=False)
            spinner.update(line)

        yield say


def _build(options: argparse.Namespace) -> int:
    for name in images.names() if options.all else [options.image or api.DEFAULT_IMAGE]:
        with _progress() as say:
            directory = api.build_image(name, say)
        print(f"{name} {directory}")
    return 0


def _up(options: argparse.Namespace) -> int:
    wanted = options.image or [api.DEFAULT_IMAGE]
    hosts = options.hosts or (len(wanted) if len(wanted) > 1 else 3)
    with _progress() as say:
        lab = api.up(options.name, hosts, wanted[0] if len(wanted) == 1 else wanted, say, rig=options.rig)
    _print_lab(_lab_status(lab.name))
    return 0


def _lab_status(name: str) -> dict[str, Any]:
    lab = api.Lab.load(name)
    hosts = {
        host.name: {
            "power": lab.power(host.name), "link": "up" if host.link else "down", "image": host.image,
            "ssh_port": host.ssh_port, "https_port": host.https_port, "address": host.address,
        }
        for host in lab.hosts
    }  # fmt: skip
    return {"name": name, "accelerator": lab.accelerator, "ssh_config": str(lab.ssh_config), "hosts": hosts}


def _print_lab(status: dict[str, Any]) -> None:
    print(f"lab {status['name']} ({status['accelerator']}): ssh -F {status['ssh_config']} HOST")
    for name, host in status["hosts"].items():
        print(
            f"  {name:6} {host['power']:7} link {host['link']:4} {host['image']:18} {host['address']:15} "
            f"ssh 127.0.0.1:{host['ssh_port']}  https 127.0.0.1:{host['https_port']}"
        )


def _status(options: argparse.Namespace) -> int:
    names = state.labs() if options.name is None else [options.name]
    found = [_lab_status(name) for name in names]
    if options.json:
        print(json.dumps({"labs": {lab["name"]: lab for lab in found}}, indent=1))
        return 0
    for lab in found:
        _print_lab(lab)
    if not found:
        print("no lab is running: 'ktls lab up' starts one")
    return 0


def _ssh(options: argparse.Namespace) -> int:
    argv = api.Lab.load(options.name).ssh_argv(options.host, options.command)
    sys.stdout.flush()
    os.execv(argv[0], argv)


def _down(options: argparse.Namespace) -> int:
    for name in state.labs() if options.all else [options.name]:
        print(f"lab {name}: {'ended' if api.down(name) else 'nothing to do'}")
    return 0


def _fault(options: argparse.Namespace) -> int:
    api.Lab.load(options.name).fault(options.host, options.kind)
    print(f"{options.host}: {options.kind}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one verb: the entry of ``python -m ktls_lab``."""
    parser = argparse.ArgumentParser(prog="ktls lab", description="A fleet of real VMs on this machine.")
    add_verbs(parser.add_subparsers(dest="lab_verb", metavar="VERB", required=True))
    options = parser.parse_args(arguments)
    status: int = options.func(options)
    return status
