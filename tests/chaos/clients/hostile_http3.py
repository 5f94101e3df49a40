"""Frames of HTTP/3 that say they are huge, by aioquic. Arguments: host name, address, port, CA file. Prints what became of each connection, and
how many bytes were taken of it."""

import asyncio
import json
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamReset

NAME, ADDRESS, PORT, CA = sys.argv[1:5]
# A number of 8 bytes (RFC 9000, 16): 2 to the 40.
HUGE = bytes([0xC0, 0, 1, 0, 0, 0, 0, 0])
SENT_MAX = 32 * 1024 * 1024


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ended = None

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.ended = self.ended or f"closed {event.error_code:#x}"
        if isinstance(event, (StopSendingReceived, StreamReset)):
            self.ended = self.ended or f"stopped {event.error_code:#x}"


async def say(head, one_way):
    trust = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=NAME, verify_mode=ssl.CERT_REQUIRED)
    trust.load_verify_locations(CA)
    async with connect(ADDRESS, int(PORT), configuration=trust, create_protocol=Client) as client:
        stream = client._quic.get_next_available_stream_id(is_unidirectional=one_way)
        client._quic.send_stream_data(stream, head + HUGE)
        sent = 0
        while client.ended is None and sent < SENT_MAX:
            client._quic.send_stream_data(stream, bytes(64 * 1024))
            sent += 64 * 1024
            client.transmit()
            await asyncio.sleep(0.005)
        return [client.ended, sent < SENT_MAX]


async def main():
    told = {
        "settings": await say(b"\x00\x04", True),
        "headers": await say(b"\x01", False),
        "unknown frame": await say(b"\x21", False),
        "unknown stream": await say(b"\x21", True),
    }
    print(json.dumps(told))


asyncio.run(asyncio.wait_for(main(), 60))
