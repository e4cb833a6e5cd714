# SPDX-License-Identifier: Apache-2.0
"""One JSON line a response, written in batches."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import TextIO

from .request import Request

_MAX_HELD = 64 * 1024
_SAFE = re.compile(rb"[ !#-\[\]-~]*").fullmatch


class AccessLog:
    """Holds lines until :meth:`flush` or until about 64 KiB are held. Without a stream it drops them."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._held: list[str] = []
        self._size = 0
        self._labels: dict[tuple[str, str, bool, bool], str] = {}

    def labels(self, protocol: str, cipher: str, ktls_tx: bool, ktls_rx: bool) -> str:
        """Return what is the same in all lines of one connection: whether the kernel encrypts and decrypts, and how."""
        key = (protocol, cipher, ktls_tx, ktls_rx)
        text = self._labels.get(key)
        if text is None:
            same = {"protocol": protocol, "cipher": cipher, "ktls_tx": ktls_tx, "ktls_rx": ktls_rx}
            text = self._labels[key] = json.dumps(same, separators=(",", ":"))[1:]
        return text

    def response(
        self,
        labels: str,
        remote: str,
        request: Request | None,
        status: int,
        sent: int,
        complete: bool,
        duration_s: float,
    ) -> None:
        """Add a line. ``labels`` come from :meth:`labels`; ``sent``: bytes of head and body that were handed to TLS."""
        if self._stream is None:
            return
        method = path = "null"
        if request is not None:
            method = '"GET"' if request.method == "GET" else _quoted(request.method.encode("ascii", "replace"))
            path = _quoted(request.target)
        line = (
            f'{{"time":{time.time():.3f},"remote":"{remote}","method":{method},"path":{path},"status":{status},'
            f'"bytes":{sent},"complete":{"true" if complete else "false"},"duration_s":{duration_s:.6f},{labels}'
        )
        self._held.append(line)
        self._size += len(line)
        if self._size > _MAX_HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is held. A reader that went away does not stop the server."""
        if self._held and self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.write("\n".join(self._held) + "\n")
                self._stream.flush()
        self._held.clear()
        self._size = 0


def _quoted(value: bytes) -> str:
    # What could end the string or is not printable takes the long way.
    if _SAFE(value):
        return f'"{value.decode("ascii")}"'
    return json.dumps(value.decode("ascii", "backslashreplace"))
