# SPDX-License-Identifier: Apache-2.0
"""Programs whose TLS connections fail when OpenSSL's configuration asks for kernel TLS: they must not be reached."""

from __future__ import annotations

from collections.abc import Iterable

from .. import datapaths, processes
from ..datapaths import Datapath
from ..errors import KtlsError
from .targets import Request, Target


def refuse(request: Request, targets: Iterable[Target], root: str = "/") -> None:
    """Raise :class:`KtlsError` ``datapath_breaks_with_ktls`` where a running program would lose its connections.

    Only what runs is seen. Nothing is refused when the change is taken back, or for GnuTLS.
    """
    if request.backend == "openssl" and request.present:
        check(request, targets, datapaths.assemble(processes.probe(root), False, None, None))


def check(request: Request, targets: Iterable[Target], found: Iterable[Datapath]) -> None:
    """Do the same for what :mod:`ktls_host.datapaths` found. Pure."""
    members = {name for target in targets for name in target.members}
    for path in found:
        if path.ktls == "breaks" and (request.scope == "system" or path.unit in members):
            message = (
                f"{path.name} would lose its TLS connections ({path.why}; {path.link}): give kernel TLS to other "
                f"services one by one (scope: service), and leave this one as it is"
            )
            raise KtlsError("datapath_breaks_with_ktls", message)
