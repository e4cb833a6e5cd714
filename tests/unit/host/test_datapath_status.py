# SPDX-License-Identifier: Apache-2.0
"""Key ``datapath`` of a status, as datapaths write it and as everybody else reads it."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_host import datapath_status
from ktls_host.datapath.model import About, Consent, Draining
from ktls_host.drift import facts


def test_what_a_datapath_says_is_read_back_whole() -> None:
    about = About(
        "nginx", "nginx.service", "/usr/sbin/nginx", "1.26.3", modes=("userspace", "tx+rx", "rx"), switch="reload",
        consent=Consent(tx_rx=True), draining=Draining(2, 7), problem="a reload is owed",
    )  # fmt: skip
    found = datapath_status.of({"datapath": about.as_dict()})
    assert found == datapath_status.Datapath(
        "nginx", "nginx.service", "/usr/sbin/nginx", "1.26.3", False, ("userspace", "tx+rx", "rx"), True, False,
        "reload", 2, 7, "a reload is owed",
    )  # fmt: skip
    assert (found.name, found.means("tx"), found.means("rx"), found.draining) == ("nginx", "tx+rx", "rx", True)
    assert (found.takes("tx"), found.takes("rx"), found.takes("hw")) == (True, True, False)


@pytest.mark.parametrize("said", [None, {}, {"kind": 7}, "nginx", {"kind": "sidecar", "unit": "ktls-sidecar.service"}])
def test_whoever_says_nothing_of_it_has_the_sidecar(said: Any) -> None:
    found = datapath_status.of({"datapath": said})
    assert found.is_sidecar and found.experiments and found.takes("hw") and found.means("tx") == "tx"


def test_services_are_named_by_their_unit() -> None:
    about = About("service", "lighttpd.service", modes=("userspace", "tx"), switch="restart").as_dict()
    found = datapath_status.of({"datapath": about})
    assert (found.name, found.means("tx"), found.draining) == ("lighttpd.service", "tx", False)


def test_another_program_is_drift_and_a_worker_that_drains_is_none() -> None:
    def status(**about: Any) -> dict[str, Any]:
        made = About(**{"kind": "nginx", "unit": "nginx.service", "program": "nginx", "version": "1.26.3", **about})
        return {"datapath": made.as_dict(), "version": "1", "sidecar": {"version": "1.26.3"}}

    assert facts(status()) == {
        "agent": "1", "datapath": "nginx nginx.service", "program": "nginx 1.26.3", "modes": "userspace",
    }  # fmt: skip
    assert facts(status(draining=Draining(3))) == facts(status())
    for change in ({"version": "1.28"}, {"unit": "nginx@two.service"}, {"modes": ("userspace", "tx+rx")}):
        assert facts(status(**change)) != facts(status())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"phase": "userspace", "sidecar": None}, ""),
        ({"phase": "tx", "sidecar": {}}, "phase tx is in force"),
        ({"phase": "userspace", "sidecar": {}, "datapath": {"kind": "nginx", "unit": "nginx.service"}}, ""),
        (
            {"phase": "userspace", "sidecar": None, "sidecar_error": "no watch", "datapath": {"kind": "nginx"}},
            "nginx does not answer its agent: no watch",
        ),
        (
            {"phase": "tx+rx", "sidecar": {}, "datapath": {"kind": "nginx", "problem": "nginx -t fails"}},
            "phase tx+rx is in force after its way back: nginx -t fails",
        ),
    ],
)
def test_who_is_not_shown_to_be_back_is_not_said_to_be(status: dict[str, Any], words: str) -> None:
    assert datapath_status.stays(status).startswith(words) and bool(datapath_status.stays(status)) == bool(words)
