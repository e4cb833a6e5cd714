# SPDX-License-Identifier: Apache-2.0
"""Downloads from here while a host is drilled: traffic that its network card can encrypt, and a check of what comes."""

from __future__ import annotations

import threading

from ..download import fetch

#: What OpenSSL says of a record that is not as it was encrypted.
_DAMAGE = ("BAD_RECORD_MAC", "DECRYPTION_FAILED")
#: Seconds between two downloads.
_PAUSE_S = 0.2


class Downloads:
    """One after the other, over TLS 1.2 with AES-GCM, until the end of the ``with`` block. None without a URL.

    :param url: base URL of the host; the probe file is at its root.
    """

    def __init__(self, url: str | None, ca_file: str | None, server_name: str | None, sha256: str) -> None:
        self._url, self._ca_file, self._server_name, self._sha256 = url, ca_file, server_name, sha256
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True) if url else None
        self.done = 0
        #: What came was not what was sent; a download that fails is for others to speak of.
        self.damaged: str | None = None

    def __enter__(self) -> Downloads:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            url = f"{str(self._url).rstrip('/')}/ktls-probe.bin"
            got = fetch(url, self._ca_file, self._server_name, 10.0, card=True)
            if got.ok:
                self.done += 1
                if got.sha256 != self._sha256:
                    self.damaged = f"a download from the control node has hash {got.sha256}, not {self._sha256}"
            elif any(word in str(got.error).upper().replace(" ", "_") for word in _DAMAGE):
                self.damaged = f"a download from the control node could not be decrypted: {got.error}"
            self._stop.wait(_PAUSE_S)
