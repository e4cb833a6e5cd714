# SPDX-License-Identifier: Apache-2.0
"""The books: nothing is counted twice, nothing is lost, and what is attributed is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.evidence.infer import Contexts
from ktls_agent.evidence.ledger import CUT_BYTES, HANDSHAKE_BYTES
from ktls_agent.evidence.model import Kind, Volume
from ktls_agent.evidence.pool import MOST_LATE, MOST_WAITS
from ktls_host.probe_object import PROBE_SIZE

from .world import CLIENT, OTHER, SSH, World

PLAIN, TX, BOTH = ("none", "none"), ("sw", "none"), ("sw", "sw")
BIG = HANDSHAKE_BYTES


@pytest.fixture
def world() -> World:
    made = World()
    made.scan()
    return made


def check(world: World, *, all_attributed: bool = False) -> None:
    world.end_all()
    attributed, unattributed = world.attributed(), world.ledger.unattributed
    sent = sum(volume.sent for volume in attributed.values()) + unattributed.sent
    received = sum(volume.received for volume in attributed.values()) + unattributed.received
    assert world.ledger.held() == Volume()
    assert Volume(sent, received) == world.total(), "all bytes are somewhere, once"
    possible = world.possible()
    # What is presumed is wrong where a client had kernel TLS and nobody saw it: by no more than it is called presumed.
    wrong_sent, wrong_received = world.ledger.presumed.sent, world.ledger.presumed.received
    if not world.local_ktls:
        wrong_sent = wrong_received = 0
    for key, volume in attributed.items():
        most = possible.get(key, Volume())
        assert volume.sent <= most.sent + wrong_sent, (key, volume, most)
        assert volume.received <= most.received + wrong_received, (key, volume, most)
    assert world.ledger.presumed.sent <= world.ledger.inferred.sent <= sum(one.sent for one in attributed.values())
    assert not any(world.ledger.connections().values())
    if all_attributed:
        assert unattributed == Volume()


def established(world: World, *directions: str, port: int = 443) -> int:
    conn = world.open(port)
    conn.accepted = True
    world.grow(conn, 0, 300)
    for direction in directions:
        world.keys(conn, direction)
    return conn.cookie


def test_a_connection_is_counted_as_it_grows_and_once_more_when_it_ends(world: World) -> None:
    conn = world.conns[established(world, "tx", "rx")]
    world.scan()
    kind = Kind(443, "web", "TLSv1.3", "AES-256-GCM", "sw", "sw")
    assert world.ledger.volumes() == {kind: Volume(0, 300)}
    assert world.ledger.connections() == {kind: 1}
    world.grow(conn, 5000, 7)
    world.scan()
    world.grow(conn, 100, 0)
    world.destroy(conn)
    world.drain()
    assert world.ledger.volumes() == {kind: Volume(5100, 307)}
    assert world.ledger.destroyed == 1
    check(world, all_attributed=True)


@pytest.mark.parametrize(("unacked", "cut"), [(0, 0), (CUT_BYTES, 0), (CUT_BYTES + 1, 1)])
def test_a_connection_is_cut_when_the_peer_never_got_all_of_it(world: World, unacked: int, cut: int) -> None:
    """A close_notify and a FIN that nobody acknowledges are how many clients end: that is no cut."""
    seen = {path: world.conns[established(world, *way)] for path, way in (("ktls", ["tx"]), ("userspace", []))}
    seen["other"] = world.conns[established(world, port=OTHER)]
    world.scan()
    for conn in seen.values():
        world.grow(conn, HANDSHAKE_BYTES, 0)
    world.scan()
    seen["unknown"] = world.conns[established(world)]
    for conn in seen.values():
        conn.unacked = unacked
        world.destroy(conn)
    world.drain()
    expected = {(443, "web", path): [1, cut] for path in ("ktls", "userspace", "unknown")}
    assert world.ledger.ends == expected


def test_what_was_there_before_does_not_count() -> None:
    world = World()
    conn = world.conns[established(world, "tx", "rx")]
    world.grow(conn, 10**6, 0)
    closing = world.open()
    closing.closed = True
    world.scan()
    world.grow(conn, 5, 0)
    check(world)
    assert world.attributed() == {(443, BOTH): Volume(5, 0)}


def test_growth_belongs_to_the_kind_that_the_dump_shows(world: World) -> None:
    conn = world.conns[established(world)]
    world.scan()
    assert world.attributed() == {(443, PLAIN): Volume(0, 300)}
    world.keys(conn, "tx")
    world.grow(conn, 9000, 0)
    world.scan()
    assert world.attributed() == {(443, PLAIN): Volume(0, 300), (443, TX): Volume(9000, 0)}
    check(world, all_attributed=True)


def test_without_the_module_every_short_connection_is_userspace(world: World) -> None:
    for size in (10, 1000, 10**6):
        world.short(443, size, 300)
    world.scan()
    assert world.attributed() == {(443, PLAIN): Volume(1001010, 900)}
    assert world.ledger.inferred == Volume(1001010, 900)
    check(world, all_attributed=True)


@pytest.mark.parametrize(("directions", "place"), [(("tx",), "sw"), (("tx", "rx"), "sw"), (("tx",), "hw")])
def test_if_as_many_contexts_as_connections_all_were_ktls(
    world: World, directions: tuple[str, ...], place: str
) -> None:
    for size in (10, 1000, 10**6):
        world.short(443, size, 300, *directions, place=place)
    world.scan()
    expected = (place, place if "rx" in directions else "none")
    assert world.attributed() == {(443, expected): Volume(1001010, 900)}
    assert [kind.version for kind in world.ledger.volumes()] == [""], "the counters know no version"
    check(world, all_attributed=True)


def test_a_mixture_is_attributed_as_far_as_its_number_tells(world: World) -> None:
    for number in range(9):
        world.short(443, 1000, 300, *(["tx"] if number < 8 else []))
    world.scan()
    assert world.attributed() == {(443, TX): Volume(8000, 2400), (443, PLAIN): Volume(1000, 300)}
    world.short(443, 5000, 300, "tx")
    world.short(443, 1000, 300)
    world.scan()
    # One of the two was kTLS: at least the smaller.
    assert world.attributed() == {(443, TX): Volume(9000, 2700), (443, PLAIN): Volume(2000, 600)}
    assert world.ledger.unattributed == Volume(4000, 0)
    check(world)


def test_connections_of_other_ports_may_have_been_the_ktls_ones(world: World) -> None:
    world.short(443, 1000, 300, "tx")
    world.short(OTHER, 10, 300)
    world.scan()
    assert world.attributed() == {}
    assert world.ledger.unattributed == Volume(1000, 300)
    check(world)


def test_programs_without_tls_open_no_contexts_unless_they_are_seen_to(world: World) -> None:
    world.short(443, 1000, 300, "tx")
    world.short(SSH, 10, 300)
    closing = world.conns[established(world, port=SSH)]
    closing.closed = True
    world.scan()
    assert world.attributed() == {(443, TX): Volume(1000, 300)}
    established(world, "tx", port=SSH)
    world.scan()
    world.short(443, 1000, 300, "tx")
    world.short(SSH, 10, 300)
    world.scan()
    assert world.attributed() == {(443, TX): Volume(1000, 300)}, "any of the two may have been kTLS now"
    check(world)


def test_a_connection_that_received_nothing_was_no_tls(world: World) -> None:
    world.short(443, 0, 0)
    world.short(OTHER, 0, 20)
    world.short(443, 1000, 300, "tx")
    world.scan()
    assert world.attributed() == {(443, TX): Volume(1000, 300)}
    check(world, all_attributed=True)


def test_seen_in_the_handshake_and_ktls_after(world: World) -> None:
    conn = world.conns[established(world)]
    world.scan()
    world.keys(conn, "tx")
    world.grow(conn, 8000, 100)
    world.destroy(conn)
    world.scan()
    assert world.attributed() == {(443, PLAIN): Volume(0, 300), (443, TX): Volume(8000, 100)}
    check(world, all_attributed=True)


@pytest.mark.parametrize("said", [0, 300], ids=["it was idle before", "on a host that does not get to it"])
def test_a_handshake_may_take_its_time(world: World, said: int) -> None:
    """Seen without kTLS for half a minute, and then a whole download between two dumps."""
    conn = world.open()
    conn.accepted = True
    world.grow(conn, 0, said)
    for _ in range(3):
        world.scan()
        world.now_s += 10
    world.grow(conn, 0, 300)
    world.keys(conn, "tx")
    world.keys(conn, "rx")
    world.grow(conn, 4 * 10**6, 100)
    world.destroy(conn)
    world.scan()
    world.scan()
    assert world.attributed()[(443, BOTH)].sent == 4 * 10**6
    check(world)


def test_kernel_tls_that_comes_after_all_is_seen(world: World) -> None:
    """Later than a handshake may: what a dump shows is believed, whatever was thought final."""
    conn = world.open()
    conn.accepted = True
    world.grow(conn, HANDSHAKE_BYTES, 300)
    world.scan()
    conn.tx = "sw"
    conn.left[PLAIN] = (conn.sent, conn.received)
    world.opened[0] += 1
    world.grow(conn, 1000, 0)
    world.scan()
    assert world.attributed()[(443, ("sw", "none"))].sent == 1000
    assert sum(world.ledger.connections().values()) == 1


@pytest.mark.parametrize("followed", [True, False])
def test_transmit_seen_and_receive_may_have_followed(world: World, followed: bool) -> None:
    """One context for receiving was opened, or none, and there is one connection that can have opened it."""
    conn = world.conns[established(world, "tx")]
    world.scan()
    if followed:
        world.keys(conn, "rx")
    world.grow(conn, 8000, 100)
    world.destroy(conn)
    world.scan()
    kind = Kind(443, "web", "TLSv1.3", "AES-256-GCM", "sw", "sw" if followed else "none")
    assert world.ledger.volumes()[kind] == Volume(8000, 100 if followed else 400)
    check(world, all_attributed=True)


def test_transmit_seen_and_it_is_open_who_received(world: World) -> None:
    conn = world.conns[established(world, "tx")]
    world.scan()
    world.keys(conn, "rx")
    world.grow(conn, 8000, 100)
    world.destroy(conn)
    world.short(OTHER, 10, 300)
    world.scan()
    assert world.ledger.unattributed == Volume(8000, 100)
    check(world)


def border(world: World, last: int = 10**6) -> None:
    """A full scan in the middle of traffic: a connection ends before it, and one that sent ``last`` just after it."""
    world.short(443, 4000, 300, "tx", "rx")
    world.drain()
    world.dump()
    world.short(443, last, 300, "tx", "rx")
    world.drain()
    world.ledger.settle()
    world.now_s += 1


def test_a_doubt_at_the_border_of_two_intervals_is_cleared_by_the_next(world: World) -> None:
    """One that ends just after a dump may have opened a context before it, or after it."""
    world.short(443, 3 * 10**6, 300, "tx", "rx")
    border(world)
    border(world)
    assert world.ledger.held() != Volume() and world.ledger.unattributed == Volume()
    world.scan()
    assert world.ledger.held() == world.ledger.unattributed == Volume()
    assert world.attributed() == {(443, BOTH): Volume(5008000, 1500)}
    assert world.ledger.presumed == Volume()
    check(world, all_attributed=True)


def test_a_context_that_is_opened_during_a_dump_leaves_nobody_after_it_in_doubt(world: World) -> None:
    """Nobody waits at that dump, and it is seen right after; the counters of the dump are not sharp all the same."""
    world.scan()
    conn = world.open()
    conn.accepted = True
    world.grow(conn, 0, 300)

    def keys() -> None:
        for direction in ("tx", "rx"):
            world.keys(conn, direction)

    world.drain()
    world.ledger.begin(world.now_s, world.contexts, True)
    world.ledger.dump([conn.row()])
    keys()
    world.ledger.end(world.contexts)
    world.ledger.settle()
    world.now_s += 1
    world.grow(conn, 500, 0)
    world.dump(full=False)
    for sent in (4 * 10**6, 20_000, 20_000):
        world.short(443, sent, 300, "tx", "rx")
    world.scan()
    assert world.ledger.unattributed == world.ledger.held() == Volume()
    assert world.attributed()[(443, BOTH)].sent == 4_040_500
    check(world, all_attributed=True)


def test_until_when_all_is_judged(world: World) -> None:
    """Whoever counts from a moment on needs to know that nothing of before it is told later."""
    world.now_s = 200.0
    world.scan()
    assert world.ledger.judged_s == 200.0
    world.now_s = 210.0
    world.short(443, 100, 300, "tx")
    world.drain()
    assert world.ledger.judged_s == 200.0, "what has ended since waits for the next full dump"
    world.dump()
    assert world.ledger.judged_s == 200.0, "and for its judgement"
    world.short(443, 10**6, 300, "tx")
    world.drain()
    world.ledger.settle()
    assert (world.ledger.judged_s, world.ledger.held().sent) == (200.0, 1000100), "either may have opened the context"
    world.now_s = 220.0
    world.scan()
    assert (world.ledger.judged_s, world.ledger.held()) == (220.0, Volume())


def test_nobody_waits_for_ever(world: World) -> None:
    """Where no dump ever has a sharp border some stay open in the end: of all that waited, and not of each interval.

    One is in doubt for sending and one for receiving, and they need not be the same; and the one at the border.
    """
    for _ in range(MOST_WAITS + 1):
        border(world)
    assert world.ledger.unattributed == Volume(3 * 10**6, 900)
    assert world.attributed()[(443, BOTH)].sent >= (MOST_WAITS - 3) * 10**6
    check(world)


def test_a_notice_that_is_very_late_finds_its_context(world: World) -> None:
    """The host is so busy that it comes after the judgement: contexts of nobody say that somebody is missing."""
    world.short(443, 5000, 300, "tx", "rx")
    world.short(443, 10**6, 300, "tx", "rx")
    late = world.notices.pop()
    world.scan()
    assert world.attributed() == {(443, BOTH): Volume(5000, 300)}
    world.notices.append(late)
    world.short(443, 3 * 10**6, 300, "tx", "rx")
    world.scan()
    assert world.ledger.unattributed == world.ledger.held() == Volume()
    assert world.attributed() == {(443, BOTH): Volume(4005000, 900)}
    check(world, all_attributed=True)


def test_contexts_of_nobody_are_not_waited_for_in_vain(world: World) -> None:
    """Of a socket of the kernel's own, say: a userspace connection must not be in doubt for ever."""
    world.opened[0] += 1
    for _ in range(MOST_LATE + 1):
        world.short(443, 5000, 300, "tx")
        world.scan()
    world.short(443, 7000, 300)
    world.scan()
    assert world.attributed()[(443, PLAIN)] == Volume(7000, 300)
    check(world)


def test_who_cannot_all_have_been_ktls_does_not_wait(world: World) -> None:
    world.short(443, 5000, 300, "tx", "rx")
    world.short(443, 5000, 300)
    border(world)
    # Three in userspace or not, and two contexts: nobody will ever know which.
    assert world.ledger.held().sent == 10**6
    check(world)


def test_one_at_the_border_may_be_who_opened_the_context(world: World) -> None:
    """It ended after the dump with which the time of the others begins, and was judged apart from them."""
    world.short(OTHER, 10, 300)  # so that nobody waits
    border(world, last=10)
    world.short(443, 70000, 300)
    world.scan()
    assert world.ledger.unattributed.sent >= 70000, "there was one context, and two may have opened it"
    check(world)


def test_a_module_that_was_loaded_anew_while_somebody_waits(world: World) -> None:
    """Its counters have passed again what they were when the waiting began."""
    border(world)
    border(world)
    assert world.ledger.held() == Volume(2008000, 1200)
    world.opened = [0, 0, 0, 0]
    world.short(443, 5000, 300, "tx", "rx")
    world.scan()
    assert world.attributed() == {}, "nothing follows from counters that began anew"
    check(world)


def test_what_a_presumed_connection_still_sends_is_presumed_too(world: World) -> None:
    """Its application has closed it, and bytes are on their way yet."""
    looked_at(world)
    conn = world.conns[established(world, "tx", "rx")]
    conn.closed = True
    world.destroy(world.client())
    world.scan()
    assert world.ledger.presumed == Volume(0, 300)
    world.grow(conn, 10**6, 0)
    world.scan()
    world.grow(conn, 5, 0)
    world.destroy(conn)
    world.scan()
    assert world.ledger.presumed == world.ledger.inferred == Volume(1000005, 300)
    check(world, all_attributed=True)


def looked_at(world: World, *directions: str) -> None:
    """The client's end of a long connection of this host to itself."""
    world.client(*directions, received=HANDSHAKE_BYTES)
    world.scan()


def local(world: World, *directions: str, sent: int = 5000) -> None:
    """Both ends of a short connection of this host to its own server, in userspace at the client's."""
    world.short(443, sent, 300, *directions)
    world.destroy(world.client(sent=300, received=sent))


def test_clients_on_the_host_itself_are_presumed_to_be_as_those_that_were_seen(world: World) -> None:
    looked_at(world)
    for size in (1000, 10**6):
        local(world, "tx", "rx", sent=size)
    world.scan()
    assert world.ledger.clients == [1, 0]
    assert world.attributed() == {(443, BOTH): Volume(1001000, 600)}
    assert world.ledger.inferred == world.ledger.presumed == Volume(1001000, 600)
    check(world, all_attributed=True)


def test_of_clients_of_which_none_was_seen_nothing_is_presumed(world: World) -> None:
    local(world, "tx", "rx")
    world.scan()
    assert world.attributed() == {} and world.ledger.presumed == Volume()
    check(world)


@pytest.mark.parametrize(
    ("port", "size", "told"),
    [
        pytest.param(443, PROBE_SIZE + 3000, True, id="its size, from the port where the agent looks"),
        pytest.param(443, 5000, False, id="another size"),
        pytest.param(8443, PROBE_SIZE + 3000, False, id="another port"),
    ],
)
def test_the_agents_own_download_is_presumed_without_a_look(
    world: World, monkeypatch: pytest.MonkeyPatch, port: int, size: int, told: bool
) -> None:
    """It is over long before anybody could have a look at it, and comes twice a minute."""
    monkeypatch.setattr(world.ledger, "_probe_port", 443)
    world.short(443, 4 * 10**6, 300, "tx", "rx")
    world.short(port, size, 300, "tx", "rx")
    world.destroy(world.client(sent=300, received=size, far_port=port))
    world.scan()
    assert (world.ledger.clients, world.ledger.unattributed == Volume()) == ([0, 0], told)
    assert world.ledger.presumed == (Volume(4 * 10**6 + size, 600) if told else Volume())
    check(world)


def test_nor_where_one_was_seen_with_ktls(world: World) -> None:
    looked_at(world)
    looked_at(world, "tx", "rx")
    assert world.ledger.clients == [2, 1]
    local(world, "tx", "rx")
    world.scan()
    assert world.attributed() == {} and world.ledger.presumed == Volume()
    check(world)


def test_a_presumption_that_breaks_while_somebody_waits_tells_nothing(world: World) -> None:
    looked_at(world)
    local(world, "tx", "rx", sent=7000)
    world.dump()
    world.short(443, 100, 300, "tx", "rx")
    world.drain()
    world.ledger.settle()
    assert world.ledger.held() == Volume(7100, 600)
    looked_at(world, "tx", "rx")
    assert world.attributed() == {} and world.ledger.unattributed == Volume(7100, 600)
    check(world)


def test_what_is_certain_is_not_called_presumed(world: World) -> None:
    """Without a context nobody has one, whoever the client is."""
    looked_at(world)
    local(world)
    world.scan()
    assert world.attributed() == {(443, PLAIN): Volume(5000, 300)}
    assert world.ledger.presumed == Volume()
    local(world, "tx", sent=10)
    local(world, sent=9000)
    world.scan()
    # A context at one of four ends: one of the two is userspace in any case, and the other is not if no client is kTLS.
    assert world.attributed() == {(443, PLAIN): Volume(5010, 600), (443, TX): Volume(10, 300)}
    assert world.ledger.presumed == Volume(10, 300)
    check(world)


def test_a_client_of_another_host_is_none_of_these(world: World) -> None:
    looked_at(world)
    world.short(443, 5000, 300, "tx", "rx")
    far = world.client()
    far.far = CLIENT  # port 443 there
    world.destroy(far)
    world.scan()
    assert world.attributed() == {} and world.ledger.presumed == Volume()
    check(world)


def test_a_client_of_a_program_without_tls_opens_no_context(world: World) -> None:
    """As a proxy's connections to what it stands in front of, on the same host."""
    world.short(443, 5000, 300, "tx", "rx")
    world.destroy(world.client(far_port=SSH))
    world.scan()
    assert world.attributed() == {(443, BOTH): Volume(5000, 300)} and world.ledger.presumed == Volume()
    world.client("tx", far_port=SSH)
    world.scan()
    world.short(443, 5000, 300, "tx", "rx")
    world.destroy(world.client(far_port=SSH))
    world.scan()
    assert world.attributed() == {(443, BOTH): Volume(5000, 300)}, "it speaks TLS after all"
    check(world)


def test_bytes_on_their_way_after_the_application_closed(world: World) -> None:
    """The ULP is gone, the socket is not: it must not look like userspace."""
    conn = world.conns[established(world, "tx")]
    world.grow(conn, 100, 0)
    conn.closed = True
    world.scan()
    assert world.attributed() == {(443, TX): Volume(100, 300)}, "it was opened, closed and inferred"
    assert not world.ledger.connections(), "no application has it"
    world.grow(conn, 10**6, 0)
    world.scan()
    assert world.attributed() == {(443, TX): Volume(1000100, 300)}
    check(world, all_attributed=True)


def test_half_seen_closing_keeps_its_kind(world: World) -> None:
    conn = world.conns[established(world, "tx")]
    world.scan()
    conn.closed = True
    world.grow(conn, 1000, 0)
    world.scan()
    assert world.attributed() == {(443, TX): Volume(1000, 300)}
    check(world, all_attributed=True)


def test_closing_while_the_judgement_is_out(world: World) -> None:
    conn = world.conns[established(world, "tx")]
    conn.closed = True
    world.dump()
    world.grow(conn, 1000, 0)
    world.destroy(conn)
    world.drain()
    assert world.ledger.held() == Volume(1000, 300)
    world.ledger.settle()
    assert world.attributed() == {(443, TX): Volume(1000, 300)}
    check(world, all_attributed=True)


def test_seen_contexts_prove_nothing_about_the_unseen(world: World) -> None:
    established(world, "tx")
    world.short(443, 1000, 300)
    world.scan()
    assert world.attributed() == {(443, TX): Volume(0, 300), (443, PLAIN): Volume(1000, 300)}


def test_not_accepted_yet(world: World) -> None:
    conn = world.open()
    world.grow(conn, 0, 400)
    world.scan()
    assert world.attributed() == {} and world.ledger.held() == Volume(0, 400)
    conn.accepted = True
    world.keys(conn, "tx")
    world.scan()
    assert world.attributed() == {(443, TX): Volume(0, 400)}
    check(world, all_attributed=True)


def test_a_late_notice_is_judged_by_both_times(world: World) -> None:
    """Its context is of the time before the dump, its notice comes after: the quiet time after must not judge it."""
    world.short(443, 1000, 300, "tx")
    late, world.notices = world.notices, []
    world.dump()
    world.notices = late
    world.drain()
    world.ledger.settle()
    world.scan()
    assert (443, PLAIN) not in world.attributed()
    check(world)


def test_lost_notices_make_nothing_certain_from_below(world: World) -> None:
    world.short(443, 10**6, 300)  # its notice is lost
    world.notices.clear()
    world.ledger.lost()
    world.short(443, 1000, 300, "tx")
    world.scan()
    assert world.attributed() == {}
    assert world.ledger.unattributed == Volume(1000, 300)


def test_a_socket_whose_notice_was_lost_is_given_up(world: World) -> None:
    conn = world.conns[established(world, "tx", "rx")]
    world.scan()
    world.destroy(conn)
    world.notices.clear()
    world.ledger.lost()
    world.scan()
    assert world.ledger.vanished == 0, "the notice may be late"
    world.scan()
    assert world.ledger.vanished == 1 and not world.ledger.connections()
    world.ledger.gone([conn.notice(world.now_s)], world.now_s)
    assert sum(volume.received for volume in world.attributed().values()) == 300, "counted once, though it came at last"


@pytest.mark.parametrize("directions", [(), ("tx",), ("tx", "rx")])
def test_reset_and_not_closed_yet(world: World, directions: tuple[str, ...]) -> None:
    """It is in no dump, and its notice comes when the application closes it, be it hours later."""
    conn = world.conns[established(world)]
    world.scan()
    for direction in directions:
        world.keys(conn, direction)
    world.grow(conn, 5000, 0)
    conn.reset = True
    for _ in range(5):
        world.scan()
    assert not world.ledger.connections() and world.ledger.vanished == 0
    world.destroy(conn)
    world.scan()
    kind = ("sw" if "tx" in directions else "none", "sw" if "rx" in directions else "none")
    assert world.attributed()[(443, kind)].sent == 5000
    check(world, all_attributed=True)


def test_a_module_loaded_anew_says_nothing(world: World) -> None:
    world.short(443, 10, 300, "tx")
    world.scan()
    world.opened = [0, 0, 0, 0]
    world.short(443, 1000, 300)
    world.scan()
    assert world.ledger.unattributed == Volume(1000, 300)


def test_new_listeners_take_their_open_connections(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = world.conns[established(world, "tx", "rx", port=9443)]
    world.scan()
    assert world.ledger.connections() == {}
    monkeypatch.setitem(__import__("tests.unit.agent.evidence.world", fromlist=["PORTS"]).PORTS, 9443, "new")
    world.ledger.reassign()
    world.grow(conn, 77, 0)
    world.scan()
    kind = Kind(9443, "new", "TLSv1.3", "AES-256-GCM", "sw", "sw")
    assert world.ledger.volumes() == {kind: Volume(77, 0)}
    assert world.ledger.connections() == {kind: 1}


def test_a_namespace_that_is_left_keeps_its_bytes(world: World) -> None:
    established(world, "tx", "rx")
    world.scan()
    world.short(443, 1000, 300)
    world.drain()
    total = world.total()
    world.ledger.finish()
    attributed = world.attributed()[(443, BOTH)]
    assert Volume(attributed.sent + 1000, attributed.received + 300) == total
    assert world.ledger.unattributed == Volume(1000, 300)
    assert not world.ledger.connections()


def test_reset_before_it_was_ever_seen_and_closed_much_later(world: World) -> None:
    """Its context was counted in another interval: the quiet one in which it is closed must not call it userspace."""
    conn = world.conns[established(world, "tx")]
    world.grow(conn, 5000, 0)
    conn.reset = True
    for _ in range(3):
        world.scan()
    world.destroy(conn)
    world.scan()
    assert world.attributed() == {} and world.ledger.unattributed == Volume(5000, 300)
    check(world)


def test_ended_before_it_was_ever_seen_and_closed_late_where_nothing_was_opened() -> None:
    """As programs do that keep a closed connection for its TIME_WAIT."""
    world = World()
    for _ in range(3):
        world.now_s += 10
        world.scan()
    conn = world.conns[established(world)]
    world.grow(conn, 5000, 0)
    conn.reset = True
    for _ in range(3):
        world.now_s += 10
        world.scan()
    world.destroy(conn)
    world.scan()
    assert world.attributed() == {(443, PLAIN): Volume(5000, 300)}
    check(world, all_attributed=True)


def test_ended_just_before_the_dump_and_noticed_after_it(world: World) -> None:
    """It is not late, and its context is of this interval: the userspace one beside it must not be taken for it."""
    world.now_s += 10
    world.scan()
    conn = world.short(443, 100, 300, "tx")
    world.notices.clear()
    world.short(443, 7000, 300)
    world.drain()
    world.now_s += 5
    world.dump()
    world.ledger.gone([conn.notice(world.now_s)], world.now_s)
    world.ledger.settle()
    assert (443, TX) not in world.attributed()
    check(world)


ACTIONS = (
    "open",
    "other",
    "accept",
    "tx",
    "rx",
    "hw",
    "small",
    "big",
    "close",
    "reset",
    "destroy",
    "short",
    "shortk",
    "client",
    "local",
    "clientk",
    "later",
)
STEP = st.tuples(st.sampled_from((*ACTIONS, "drain", "fast", "scan", "dump", "settle")), st.integers(0, 7))


def act(world: World, action: str, pick: int) -> None:
    conns = list(world.conns.values())
    if action in ("open", "other"):
        world.open(OTHER if action == "other" else (443, 8443)[pick % 2])
    elif action in ("short", "shortk"):
        world.short(
            (443, 8443, OTHER)[pick % 3],
            1000 << pick,
            300,
            *(["tx", "rx"][: 1 + pick % 2] if action == "shortk" else []),
        )
    elif action in ("client", "local", "clientk"):
        ends = ["tx", "rx"][: 1 + pick % 2] if action == "clientk" else []
        far_port = SSH if pick % 3 == 1 and not ends else 443
        conn = world.client(*ends, received=BIG if action == "client" else 5000, far_port=far_port)
        world.local_ktls = world.local_ktls or bool(ends)
        if action != "client":
            world.destroy(conn)
    elif action == "later":
        world.now_s += pick
    elif conns:
        conn = conns[pick % len(conns)]
        if action == "accept":
            conn.accepted = True
        elif action in ("tx", "rx", "hw"):
            world.keys(conn, "tx" if action == "hw" else action, "hw" if action == "hw" else "sw")
        elif action in ("small", "big"):
            world.grow(conn, (100 if action == "small" else BIG) + pick, 60)
        elif action == "close":
            conn.closed = conn.accepted
        elif action == "reset":
            # Not before it was seen at all: docs/evidence.md, "What cannot be known".
            conn.reset = conn.reset or conn.cookie in world.ledger._sockets
        elif action == "destroy":
            world.destroy(conn)


@settings(max_examples=400)
@given(st.lists(STEP, max_size=60), st.lists(st.tuples(st.sampled_from(ACTIONS[:-1]), st.integers(0, 7)), max_size=30))
def test_any_interleaving(steps: list[tuple[str, int]], during: list[tuple[str, int]]) -> None:
    """Connections open, grow, take keys and end at any time, in the middle of dumps too."""
    world = World()
    act(world, "open", 0)
    between = iter(during)

    def meanwhile() -> None:
        for action, pick in between:
            act(world, action, pick)
            return

    world.scan()
    run: dict[str, Callable[[], None]] = {
        "drain": world.drain,
        "fast": lambda: world.dump(full=False, meanwhile=meanwhile),
        "scan": world.scan,
    }
    for action, pick in steps:
        if action == "dump":
            world.drain()
            world.dump(meanwhile=meanwhile)
        elif action == "settle":
            world.drain()
            world.ledger.settle()
        elif action in run:
            if action == "fast":
                world.drain()
            run[action]()
        else:
            act(world, action, pick)
    check(world)


def test_contexts_of_a_kernel_without_tls() -> None:
    from ktls_agent.evidence import infer

    assert infer.contexts(None) == infer.contexts({}) == Contexts()
    assert infer.contexts({"TlsTxSw": 3, "TlsRxDevice": 1, "TlsFuture": 9}) == Contexts(3, 0, 0, 1)
