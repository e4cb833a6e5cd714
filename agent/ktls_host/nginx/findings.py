# SPDX-License-Identifier: Apache-2.0
"""What nginx's configuration means for kernel TLS: what stands in the way, and what an operator must know. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..reasons import Reason
from . import syntax
from .build import KEEPALIVE_SINCE, SINCE, Build
from .dropin import BASE, ON, Places
from .syntax import Directive, Dump

_SHOWN = 3
_OURS = (BASE, ON)


@dataclass(frozen=True)
class Site:
    """What the configuration says, our own drop-ins left out.

    ``sendfile``: whether ``sendfile`` is set at http level; ``logs``: whether an access_log is. ``ports``: those of
    server blocks with TLS. ``takes_in``: whether our drop-ins would be read, at http level.
    """

    http: bool = False
    sendfile: bool = False
    logs: bool = False
    ports: tuple[int, ...] = ()
    takes_in: bool = False
    base_there: bool = False


def site(dump: Dump, places: Places) -> Site:
    """Read the configuration."""
    top = syntax.tree(dump)
    http = next((one for one in top if one.name == "http" and one.block is not None), None)
    if http is None or dump.main is None:
        return Site()
    level = [one for one in http.block or () if not _ours(one)]
    prefix = os.path.dirname(dump.main)
    includes = [one.args[0] for one in level if one.name == "include" and one.args]
    return Site(
        http=True,
        sendfile=any(one.name == "sendfile" for one in level),
        logs=any(one.name == "access_log" for one in level),
        ports=tuple(sorted({port for server in _servers(http) for port in tls_ports(server)})),
        takes_in=all(
            any(syntax.included(pattern, path, prefix) for pattern in includes) for path in (places.base, places.on)
        ),
        base_there=places.base in dump.files,
    )


def refusals(build: Build, found: Site, places: Places) -> Iterator[Reason]:
    """Return why nginx cannot have kernel TLS from us, whatever the phase."""
    if not build.version:
        return
    if build.number < SINCE:
        message = f"nginx {build.version} is older than 1.21.4, the first that can send files through kernel TLS"
        yield Reason("nginx_too_old", message, "update nginx, or serve with the sidecar")
    if not build.ssl:
        message = "nginx was built without --with-http_ssl_module"
        yield Reason("nginx_without_ssl", message, "install your distribution's nginx, or serve with the sidecar")
    elif build.openssl_number < (3, 0, 0):
        message = f"nginx runs with {build.library or 'an unknown TLS library'}, which cannot hand TLS to the kernel"
        yield Reason("nginx_other_library", message, "use an nginx built against OpenSSL 3, or the sidecar")
    if not found.http:
        yield Reason("nginx_no_http", "nginx's configuration has no http block", "serve with the sidecar")
    elif not found.takes_in:
        message = f"nginx's http block does not include {places.base}"
        yield Reason("nginx_dropin_not_included", message, f"add 'include {places.directory}/*.conf;' to it")


def notes(build: Build, dump: Dump) -> Iterator[Reason]:
    """Return what to know before, most of it about single blocks."""
    top = syntax.tree(dump)
    http = tuple(one for one in top if one.name == "http")
    yield from _not_inherited(http)
    yield from _around_sendfile(http)
    yield from _http2(build, http)
    yield from _streams(top)
    yield from _own_logs(http)
    if build.version and build.number < KEEPALIVE_SINCE:
        message = f"nginx {build.version} closes idle keep-alive connections at a reload"
        cure = "clients repeat a request by themselves; nginx 1.27.4 has keepalive_min_timeout for those that do not"
        yield Reason("nginx_reload_ends_keepalive", message, cure)


def tls_ports(server: Directive) -> tuple[int, ...]:
    """Return the ports of a server block that speak TLS: ``listen ... ssl`` (ngx_http_core_module)."""
    ports = []
    for one in server.block or ():
        if one.name == "listen" and one.args and "ssl" in one.args[1:]:
            port = one.args[0].rpartition(":")[2] if not one.args[0].endswith("]") else "80"
            if port.isdigit():
                ports.append(int(port))
    return tuple(ports)


def _not_inherited(http: tuple[Directive, ...]) -> Iterator[Reason]:
    """A level with its own list inherits none from above (ngx_conf_merge_ptr_value in ngx_http_ssl_merge_srv_conf)."""
    own = [
        server
        for server in _all_servers(http)
        if any(one.name == "ssl_conf_command" for one in server.block or ()) and not _asks_for_ktls(server)
    ]
    if own:
        message = f"server blocks with an ssl_conf_command of their own do not inherit ours: {_where(own)}"
        yield Reason(
            "nginx_own_ssl_conf_command", message, "write 'ssl_conf_command Options KTLS;' beside it, or move it"
        )
    always = [server for server in _all_servers(http) if _asks_for_ktls(server)]
    if always:
        message = f"server blocks ask for kernel TLS by themselves, whatever is ordered: {_where(always)}"
        yield Reason("nginx_ktls_by_itself", message, "remove 'ssl_conf_command Options KTLS;' there")


def _asks_for_ktls(server: Directive) -> bool:
    return any(
        one.name == "ssl_conf_command"
        and one.args[:1] == ("Options",)
        and any(word.strip().lower() in ("ktls", "+ktls") for word in "".join(one.args[1:]).split(","))
        for one in server.block or ()
    )


def _around_sendfile(http: tuple[Directive, ...]) -> Iterator[Reason]:
    off = [one for one in _inside(http) if one.name == "sendfile" and one.args[:1] == ("off",)]
    if off:
        message = f"sendfile is off at {_where(off)}: the kernel encrypts there, but nginx copies"
        yield Reason("nginx_sendfile_off", message, "switch it on there, if files are served")
    around = [
        one for one in _inside(http) if one.name in ("aio", "directio") and one.args[:1] not in (("off",), ("threads",))
    ]
    if around:
        message = f"files are read around sendfile at {_where(around)} ({_names(around)})"
        yield Reason("nginx_reads_around_sendfile", message, "nothing, or leave it out where whole files are served")
    slow = [one for one in _inside(http) if one.name == "limit_rate" and one.args[:1] != ("0",)]
    if slow:
        message = f"limit_rate at {_where(slow)} cuts what is sent into small pieces: little is gained there"
        yield Reason("nginx_limit_rate", message, "nothing")
    changed = [
        one
        for one in _inside(http)
        if (one.name in ("gzip", "brotli", "zstd", "gunzip") and one.args[:1] == ("on",)) or one.name == "sub_filter"
    ]
    if changed:
        message = f"bodies that are changed on their way never go by sendfile: {_names(changed)} at {_where(changed)}"
        yield Reason(
            "nginx_changes_bodies", message, "nothing: it is for texts; leave it off for files that are packed"
        )


def _http2(build: Build, http: tuple[Directive, ...]) -> Iterator[Reason]:
    on = [
        one
        for one in _inside(http)
        if (one.name == "listen" and "http2" in one.args) or (one.name == "http2" and one.args[:1] == ("on",))
    ]
    if not on:
        return
    message = f"HTTP/2 at {_where(on)}: frames go between pieces of a file, so less is gained than with HTTP/1.1"
    if build.both_ways:
        message += ", and OpenSSL 3.2 and later logs errors when such a connection lingers (nginx issue 651)"
    yield Reason("nginx_http2", message, "for bulk data leave HTTP/2 off, or look at the error log after the switch")


def _streams(top: tuple[Directive, ...]) -> Iterator[Reason]:
    tls = [
        server
        for stream in top
        if stream.name == "stream"
        for server in syntax.walk(stream.block or ())
        if server.name == "server" and tls_ports(server)
    ]
    if tls:
        message = f"server blocks of stream stay in userspace: {_where(tls)}; the drop-in is one of http"
        yield Reason("nginx_stream_not_reached", message, "nothing")


def _own_logs(http: tuple[Directive, ...]) -> Iterator[Reason]:
    own = [
        one
        for block in http
        for child in block.block or ()
        if child.block is not None
        for one in syntax.walk((child,))
        if one.name == "access_log" and not _ours(one)
    ]
    off = [one for block in http for one in block.block or () if one.name == "access_log" and one.args[:1] == ("off",)]
    if own or off:
        message = f"requests under an access_log of their own are not counted by mode: {_where([*off, *own])}"
        yield Reason(
            "nginx_own_access_log", message, "nothing: connections and bytes are seen by the kernel all the same"
        )


def _servers(http: Directive) -> Iterator[Directive]:
    return (one for one in http.block or () if one.name == "server" and not _ours(one))


def _all_servers(http: tuple[Directive, ...]) -> Iterator[Directive]:
    return (server for block in http for server in _servers(block))


def _inside(http: tuple[Directive, ...]) -> Iterator[Directive]:
    return (one for one in syntax.walk(http) if not _ours(one))


def _ours(directive: Directive) -> bool:
    return os.path.basename(directive.file) in _OURS


def _where(found: Iterable[Directive]) -> str:
    places = list(dict.fromkeys(one.where for one in found))
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return ", ".join(places[:_SHOWN]) + more


def _names(found: Iterable[Directive]) -> str:
    return ", ".join(dict.fromkeys(one.name for one in found))
