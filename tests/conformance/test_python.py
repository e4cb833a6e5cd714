# SPDX-License-Identifier: Apache-2.0
"""Python's clients: http.client, urllib, and asyncio's TLS, which sits on memory buffers."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import threading
import urllib.error
import urllib.request

import pytest

from .clients import request
from .conftest import Site
from .content import COMMON, sha256
from .harness import Native, tls_context

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def path(name: str) -> str:
    return f"/{name.replace('+', '%2B')}"


@pytest.mark.parametrize("version", VERSIONS)
def test_http_client_keeps_a_connection(steady: Native, site: Site, version: ssl.TLSVersion) -> None:
    connection = http.client.HTTPSConnection(
        "localhost", steady.port, context=tls_context(steady.ca, version), timeout=30
    )
    connection.connect()
    first = connection.sock
    for name in [*COMMON, "empty.bin", "one.bin"] * 5:
        connection.request("GET", path(name))
        response = connection.getresponse()
        assert (response.status, sha256(response.read())) == (200, site.sha256[name])
    assert connection.sock is first
    connection.close()


def test_urllib(switching: Native, site: Site) -> None:
    context = tls_context(switching.ca)
    for name in COMMON:
        with urllib.request.urlopen(switching.endpoint.url(path(name)), context=context, timeout=30) as response:
            assert sha256(response.read()) == site.sha256[name]
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(switching.endpoint.url("/nothing"), context=context, timeout=30)
    assert caught.value.code == 404


def test_eight_at_once(switching: Native, site: Site) -> None:
    """Each body is hashed, each connection is new, the mode changes under them."""
    wrong: list[str] = []
    right: list[str] = []

    def download(number: int) -> None:
        context = tls_context(switching.ca, VERSIONS[number % 2])
        for name in COMMON * 4:
            connection = http.client.HTTPSConnection("localhost", switching.port, context=context, timeout=30)
            connection.request("GET", path(name))
            response = connection.getresponse()
            found = sha256(response.read())
            (right if (response.status, found) == (200, site.sha256[name]) else wrong).append(name)
            connection.close()

    threads = [threading.Thread(target=download, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (wrong, len(right)) == ([], 8 * 4 * len(COMMON))


def test_asyncio(switching: Native, site: Site) -> None:
    async def fetch(name: str) -> tuple[bytes, str]:
        reader, writer = await asyncio.open_connection("localhost", switching.port, ssl=tls_context(switching.ca))
        writer.write(request(path(name), "Connection: close"))
        data = await reader.read()
        writer.close()
        head, _, body = data.partition(b"\r\n\r\n")
        return head.split(b"\r\n")[0], sha256(body)

    async def main() -> None:
        names = [*COMMON] * 5
        found = await asyncio.gather(*(fetch(name) for name in names))
        assert found == [(b"HTTP/1.1 200 OK", site.sha256[name]) for name in names]

    asyncio.run(main())
