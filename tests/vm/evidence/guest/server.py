# SPDX-License-Identifier: Apache-2.0
"""A TLS server of few words: answers a line with a number by so many bytes, then closes. Userspace or kernel TLS."""

import socket
import ssl
import sys

OP_ENABLE_KTLS = 8  # ssl.OP_ENABLE_KTLS, Python 3.12
PORTS = {"plain": 9443, "ktls": 9444}

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/root/other.pem", "/root/other.key")
if sys.argv[1] == "ktls":
    context.options |= OP_ENABLE_KTLS
with socket.create_server(("10.98.0.1", PORTS[sys.argv[1]]), backlog=64) as listener:
    while True:
        accepted, _ = listener.accept()
        accepted.settimeout(10)
        try:
            with context.wrap_socket(accepted, server_side=True) as connection:
                connection.sendall(b"x" * int(connection.recv(64)))
                connection.recv(64)  # until the client closes
        except (OSError, ValueError):
            accepted.close()
