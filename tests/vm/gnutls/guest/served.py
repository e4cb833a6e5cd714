# SPDX-License-Identifier: Apache-2.0
"""One connection to gnutls-serv --echo, and what was seen of it. Runs on a lab host.

Argument: the port. Certificate and name are verified. Prints a JSON object: ``tx`` and ``rx`` (by ss, of the server's
end of this very connection; null without kernel TLS), ``tls_stat`` (what was added to the counters), ``same`` (whether
the SHA-256 of what came back is that of what was sent), ``bytes`` each way.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import sys

from . import witness

CA, NAME = "/etc/ktls-test/pki/ca-cert.pem", "localhost"
LINES = 60


def main() -> None:
    port = int(sys.argv[1])
    before = witness.tls_stat()
    sent, received = hashlib.sha256(), hashlib.sha256()
    size = 0
    raw = socket.create_connection(("127.0.0.1", port), 30)
    with raw, ssl.create_default_context(cafile=CA).wrap_socket(raw, server_hostname=NAME) as tls:
        with tls.makefile("rb") as answers:
            for _ in range(LINES):
                line = os.urandom(200).hex().encode() + b"\n"
                tls.sendall(line)
                sent.update(line)
                received.update(answers.readline())
                size += len(line)
        ours = f":{tls.getsockname()[1]} "
        (seen,) = (line for line in witness.sockets(port) if ours in line)
    found = re.search(r"tcp-ulp-tls version: \S+ cipher: \S+ rxconf: (\S+) txconf: (\S+)", seen)
    said = {
        "rx": found and found[1],
        "tx": found and found[2],
        "tls_stat": witness.added(before),
        "same": sent.digest() == received.digest(),
        "bytes": size,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
