"""Asks without end over connections of HTTP/1.1 that stay open, as a proxy does; goes to the next node where one refuses a connection.
Arguments: CA file, app key, seconds, ports. Prints how many answers came, and each request that got none or a wrong one."""

import http.client
import json
import ssl
import sys
import threading
import time

CA, KEY, SECONDS = sys.argv[1:4]
PORTS = [int(port) for port in sys.argv[4:]]
TRUST = ssl.create_default_context(cafile=CA)
BODY = json.dumps({"user_id": "u", "slot": "home"})
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
answered, failed, moved = [0], [], [0]
end = time.monotonic() + float(SECONDS)


def connect(node):
    """A connection to this node or the next that takes one."""
    for step in range(len(PORTS) * 50):
        port = PORTS[(node + step) % len(PORTS)]
        connection = http.client.HTTPSConnection("localhost", port, context=TRUST, timeout=10)
        try:
            connection.connect()
            return (node + step) % len(PORTS), connection
        except OSError:
            moved[0] += 1
            time.sleep(0.02)
    raise OSError("no node takes a connection")


def work(node):
    node, connection = connect(node)
    while time.monotonic() < end:
        try:
            connection.request("POST", "/v1/recommend", BODY, HEADERS)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failed.append(f"{PORTS[node]}: {answer.status}")
            answered[0] += 1
            if answer.will_close:
                moved[0] += 1
                node, connection = connect(node + 1)
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{PORTS[node]}: {error!r}")
            node, connection = connect(node + 1)


threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"answered": answered[0], "failed": failed[:10], "moved": moved[0]}))
