# SPDX-License-Identifier: Apache-2.0
"""What the tests of the rig let happen on a host, as JSON. Run as root: ``python3 -m guest.stories STORY [SEED]``."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .wire import (
    CARD,
    CHACHA20,
    GCM128,
    GCM256,
    LOWER,
    NO_FAULTS,
    Connection,
    Watcher,
    Wire,
    connection,
    content,
    kernel_complaints,
    knobs,
    moved,
    run,
    statistics,
    tls_stat,
    until,
)

MIB = 1 << 20


def features() -> dict[str, str]:
    """Return the TLS features and what they need, as ``ethtool -k`` prints them."""
    lines = (line.split(":", 1) for line in run("ethtool", "-k", CARD).splitlines() if ": " in line)
    wanted = ("tls-hw-tx-offload", "tls-hw-rx-offload", "tx-checksum-ip-generic", "rx-checksumming")
    return {name.strip(): value.strip() for name, value in lines if name.strip() in wanted}


def switch(direction: str, wish: str) -> None:
    """Switch a TLS feature of the card."""
    run("ethtool", "-K", CARD, f"tls-hw-{direction}-offload", wish)


def carrier() -> str:
    """``up`` or ``down``."""
    return "up" if Path(f"/sys/class/net/{CARD}/carrier").read_text().strip() == "1" else "down"


def card() -> dict[str, Any]:
    """What the card is, before it does anything."""
    with Wire():
        shown = json.loads(run("ip", "-j", "-d", "link", "show", CARD))[0]
        below = json.loads(run("ip", "-j", "link", "show", LOWER))[0]
        found: dict[str, Any] = {
            "driver": run("ethtool", "-i", CARD).splitlines()[0],
            "kind": shown["linkinfo"]["info_kind"],
            "link": shown["link"],
            "same_mac": shown["address"] == below["address"],
            "features": features(),
            "counters": statistics(),
        }
        switch("rx", "on")
        switch("tx", "off")
        found["switched"] = features()
        switch("tx", "on")
        run("ethtool", "-K", CARD, "tx", "off")
        found["without_checksums"] = features()
        run("ethtool", "-K", CARD, "tx", "on")
        found["carrier"] = [carrier()]
        for wish in ("down", "up"):
            run("ip", "link", "set", LOWER, wish)
            until(lambda wish=wish: carrier() == wish)  # type: ignore[misc]
            found["carrier"].append(carrier())
        second = subprocess.run(
            ["ip", "link", "add", "link", LOWER, "name", "sim8", "type", "tlssim"], capture_output=True, check=False
        )
        alone = subprocess.run(
            ["ip", "link", "add", "name", "sim8", "type", "tlssim"], capture_output=True, text=True, check=False
        )
        found["refused"] = [second.returncode != 0, alone.stderr]
        run("ip", "link", "del", LOWER)
        found["gone_with_the_one_below"] = CARD not in run("ip", "-br", "link")
    return found


def transfer(wire: Wire, size: int = MIB, **how: Any) -> dict[str, Any]:
    """Send on one connection; tell what moved and what the kernel called it."""
    tls, driver = tls_stat(), statistics()
    with connection(wire, **how) as link:
        open_tls, conf, words = moved(tls, tls_stat()), link.conf(), link.ss()
        watcher = Watcher()
        sent = link.send(content(size))
        seen = watcher.end()
    until(
        lambda: (now := statistics())["tx_tls_ctx"] - now["tx_tls_del"] == driver["tx_tls_ctx"] - driver["tx_tls_del"]
    )
    return {
        "sent": sent, "seen": seen, "conf": conf, "ss": words, "open": open_tls,
        "tls": moved(tls, tls_stat()), "card": moved(driver, statistics()),
    }  # fmt: skip


def sessions() -> dict[str, Any]:
    """Return a transfer of each kind; those that the hardware cannot have come last."""
    with Wire() as wire:
        return {
            "gcm128": transfer(wire, cipher=GCM128),
            "gcm256": transfer(wire, MIB // 4, cipher=GCM256),
            "ipv6": transfer(wire, MIB // 4, family=6),
            "chacha20": transfer(wire, MIB // 4, cipher=CHACHA20),
            "tls13": transfer(wire, MIB // 4, version="1.3"),
        }


def refusals() -> dict[str, Any]:
    """A card whose table is full, and one whose feature is off."""
    found: dict[str, Any] = {}
    with Wire() as wire:
        knobs(capacity=1)
        with connection(wire) as first:
            for number in (28, 12, 95, 0):
                knobs(refuse_errno=number)
                found[f"errno{number}"] = transfer(wire, MIB // 4)
            found["first"] = first.conf() | first.send(content(MIB // 4))
            switch("tx", "off")
            found["first_when_off"] = first.conf()
            before = statistics()
            found["first_when_off"] |= first.send(content(MIB // 4))
            found["first_still_works"] = moved(before, statistics())
        until(lambda: statistics()["tx_tls_del"] == 1)
        found["new_when_off"] = transfer(wire, MIB // 4)
        switch("tx", "on")
        found["room_again"] = transfer(wire, MIB // 4)
    return found


def faults() -> dict[str, Any]:
    """Each knob alone, on a connection that has shaken hands."""
    found: dict[str, Any] = {}
    with Wire() as wire:
        for name, value in (("corrupt", 1), ("leak", 1), ("drop", 5), ("reorder", 3)):
            tls, before = tls_stat(), statistics()
            with connection(wire) as link:
                watcher = Watcher()
                knobs(**{f"{name}_every": value})
                found[name] = link.send(content(MIB))
                knobs(**{f"{name}_every": 0})
                found[name] |= {"seen": watcher.end(), "card": moved(before, statistics())}
            found[name]["tls"] = moved(tls, tls_stat())
        found["after"] = transfer(wire, MIB // 4)
    return found


def flap() -> dict[str, Any]:
    """Link down and up under a connection, receive offload off."""
    with Wire() as wire, connection(wire) as link:
        first = link.send(content(MIB // 4))
        run("ip", "link", "set", CARD, "down")
        time.sleep(0.2)
        run("ip", "link", "set", CARD, "up")
        before, open_tls = statistics(), tls_stat()
        found = {"first": first, "second": link.send(content(MIB)), "conf": link.conf(), "open": open_tls}
        found["card"] = moved(before, statistics())
        found["sessions"] = {name: value for name, value in statistics().items() if name.endswith(("_ctx", "_del"))}
        found["new"] = transfer_beside(wire)
    return found


def transfer_beside(wire: Wire) -> dict[str, Any]:
    """Send on a connection beside others."""
    before = statistics()
    with connection(wire) as link:
        sent = {"conf": link.conf(), "sent": link.send(content(MIB // 4))}
    return sent | {"card": moved(before, statistics())}


def receive() -> dict[str, Any]:
    """Receive offload: accepted, and nothing decrypted by the card."""
    found: dict[str, Any] = {}
    with Wire() as wire:
        switch("rx", "on")
        for name, how in (("gcm", {}), ("chacha20", {"cipher": CHACHA20})):
            tls, before = tls_stat(), statistics()
            with connection(wire, **how) as link:
                found[name] = {"conf": link.conf(), "up": link.send(content(2 * MIB), up=True)}
                found[name]["down"] = link.send(content(MIB // 4))
            until(lambda: (now := statistics())["rx_tls_ctx"] - now["rx_tls_del"] == 0)
            found[name] |= {"tls": moved(tls, tls_stat()), "card": moved(before, statistics())}
    return found


def removal() -> dict[str, Any]:
    """The module goes while a connection is open; then it comes again."""
    with Wire() as wire:
        start = tls_stat()
        with connection(wire) as link:
            first = link.send(content(MIB // 4))
            run("rmmod", "tlssim")
            gone = CARD not in run("ip", "-br", "link")
            conf, open_tls = link.conf(), moved(start, tls_stat())
        closed = until(lambda: tls_stat()["TlsCurrTxDevice"] == start["TlsCurrTxDevice"])
        run("modprobe", "tlssim")
        wire.add_card()
        return {
            "first": first, "gone": gone, "conf": conf, "open": open_tls, "closed": closed,
            "again": transfer(wire, MIB // 4),
        }  # fmt: skip


class Chaos:
    """Random faults under random traffic. The receive side stays off: see OFFLOAD hazards in the rig's README."""

    def __init__(self, seed: int, wire: Wire) -> None:
        """Begin with a healthy card."""
        self.dice = random.Random(seed)
        self.wire = wire
        self.open: list[Connection] = []
        self.told: list[str] = []
        self.wrong: list[str] = []
        self.harmful = False

    def say(self, what: str) -> None:
        """Keep a record, to be shown when something is wrong."""
        self.told.append(what)

    def turn(self) -> None:
        """Turn a knob, or put all back."""
        name = self.dice.choice(
            ["heal", "drop_every", "reorder_every", "corrupt_every", "leak_every", "capacity", "feature"]
        )
        if name == "heal":
            knobs(**NO_FAULTS)
            switch("tx", "on")
            self.harmful = False
        elif name == "capacity":
            knobs(capacity=self.dice.randrange(4), refuse_errno=self.dice.choice([12, 16, 28, 95]))
        elif name == "feature":
            switch("tx", self.dice.choice(["on", "off"]))
        else:
            knobs(**{name: self.dice.choice([3, 7, 20])})
            self.harmful |= name in ("corrupt_every", "leak_every")
        self.say(f"turn {name}")

    def connect(self) -> None:
        """Open a connection; while records are broken on purpose, it may fail."""
        kinds: list[dict[str, Any]] = [{}, {"cipher": GCM256}, {"version": "1.3"}, {"cipher": CHACHA20}]
        how = self.dice.choice(kinds)
        try:
            self.open.append(Connection(self.wire, **how))
            self.say(f"connect {how} {self.open[-1].conf()}")
        except OSError as error:
            self.say(f"connect {how}: {error}")
            if not self.harmful:
                self.wrong.append(f"no connection of a card that breaks nothing: {how}: {error}")

    def send(self) -> None:
        """Send on one of the connections: right, or an error, and an error only while records are broken."""
        if not self.open:
            return
        link = self.dice.choice(self.open)
        sent = link.send(
            content(self.dice.choice([1000, 40_000, 200_000])), piece=self.dice.choice([700, 16384, 65536])
        )
        self.say(f"send {sent}")
        if not sent["honest"] or (not sent["right"] and not self.harmful):
            self.wrong.append(f"sent {sent}")
        if not sent["right"]:
            self.open.remove(link)
            link.close()

    def end(self) -> None:
        """Close a connection."""
        if self.open:
            self.open.pop(self.dice.randrange(len(self.open))).close()
            self.say("close")

    def flap(self) -> None:
        """Link down and up, most of the time under a transfer."""
        before, between = self.dice.random() / 20, self.dice.random() / 10

        def down_and_up() -> None:
            time.sleep(before)
            run("ip", "link", "set", CARD, "down")
            time.sleep(between)
            run("ip", "link", "set", CARD, "up")

        self.say(f"flap after {before:.3f} s for {between:.3f} s")
        flapping = threading.Thread(target=down_and_up)
        flapping.start()
        self.send()
        flapping.join()


def chaos(seed: str, seconds: str = "15") -> dict[str, Any]:
    """Do these for a while; afterwards a healthy card must work as if nothing had been."""
    with Wire() as wire:
        run_of = Chaos(int(seed), wire)
        deadline = time.monotonic() + float(seconds)
        rounds = 0
        while time.monotonic() < deadline:
            weights = {run_of.send: 6, run_of.connect: 3, run_of.turn: 3, run_of.end: 1, run_of.flap: 1}
            run_of.dice.choices(list(weights), list(weights.values()))[0]()
            rounds += 1
        while run_of.open:
            run_of.end()
        knobs(**NO_FAULTS)
        switch("tx", "on")
        balanced = until(lambda: (now := statistics())["tx_tls_ctx"] == now["tx_tls_del"])
        return {
            "rounds": rounds, "wrong": run_of.wrong, "told": run_of.told, "balanced": balanced, "card": statistics(),
            "after": transfer(wire, MIB // 4),
        }  # fmt: skip


STORIES = {
    story.__name__: story for story in (card, sessions, refusals, faults, flap, receive, removal, chaos)
}  # fmt: skip


def main() -> int:
    """Tell one story; whatever it was about, the kernel must not have complained."""
    told: dict[str, Any] = STORIES[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(told | {"complaints": kernel_complaints(), "curr": tls_stat()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
