# SPDX-License-Identifier: Apache-2.0
"""A policy never reaches a program whose connections would fail with it."""

from __future__ import annotations

import pytest

from ktls_host import datapaths
from ktls_host.errors import KtlsError
from ktls_host.policy import breaking
from ktls_host.policy.targets import Request, Target
from ktls_host.processes import TlsProcess

POSTGRES = "postgresql@17-main.service"
FOUND = datapaths.assemble(
    [
        TlsProcess(10, "/usr/lib/postgresql/17/bin/postgres", POSTGRES, ("openssl",)),
        TlsProcess(11, "/usr/sbin/lighttpd", "lighttpd.service", ("openssl",)),
    ],
    False,
    None,
    None,
)


def service(name: str) -> Target:
    return Target("openssl", None, (name,))


@pytest.mark.parametrize(
    ("request_", "targets"),
    [
        (Request("openssl", "system"), [Target("openssl")]),
        (Request("openssl", "service", (POSTGRES,)), [service(POSTGRES)]),
        (Request("openssl", "service", ("lighttpd", POSTGRES)), [service("lighttpd.service"), service(POSTGRES)]),
    ],
)
def test_refused_with_the_name_of_the_program(request_: Request, targets: list[Target]) -> None:
    with pytest.raises(KtlsError) as refused:
        breaking.check(request_, targets, FOUND)
    assert refused.value.code == "datapath_breaks_with_ktls" and POSTGRES in refused.value.message


@pytest.mark.parametrize(
    ("request_", "targets", "found"),
    [
        (Request("openssl", "service", ("lighttpd",)), [service("lighttpd.service")], FOUND),
        (Request("openssl", "system"), [Target("openssl")], FOUND[:1]),
    ],
)
def test_others_are_not_refused(
    request_: Request, targets: list[Target], found: tuple[datapaths.Datapath, ...]
) -> None:
    assert [path.name for path in FOUND] == ["lighttpd.service", POSTGRES]
    breaking.check(request_, targets, found)


@pytest.mark.parametrize("request_", [Request("gnutls", "system"), Request("openssl", "system", present=False)])
def test_gnutls_and_the_way_back_are_never_refused(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datapaths, "assemble", lambda *_: FOUND)
    breaking.refuse(request_, [Target(request_.backend)])
    with pytest.raises(KtlsError):
        breaking.refuse(Request("openssl", "system"), [Target("openssl")])
