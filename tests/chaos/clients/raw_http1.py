"""Sends bytes as they are over TLS, and reads one answer to each. Arguments: host name, address, port, CA file; on standard input a JSON array of texts,
each for a connection of its own. Prints a JSON array of [status, content type, body]."""

import http.client
import json
import socket
import ssl
import sys

NAME, ADDRESS, PORT, CA = sys.argv[1:5]


def ask(text):
    trust = ssl.create_default_context(cafile=CA)
    trust.set_alpn_protocols(["http/1.1"])
    with socket.create_connection((ADDRESS, int(PORT)), timeout=30) as plain:
        with trust.wrap_socket(plain, server_hostname=NAME) as stream:
            stream.sendall(text.replace("$HOST", NAME).encode("latin-1"))
            answer = http.client.HTTPResponse(stream)
            answer.begin()
            return [answer.status, answer.getheader("content-type"), answer.read().decode()]


print(json.dumps([ask(text) for text in json.load(sys.stdin)]))
