"""Malformed requests over HTTP/3 (RFC 9114, 4.1.2), by aioquic. Arguments: host name, address, port, CA file, app key. Prints what became of each: a
status, or the code that its stream was reset with."""

import asyncio
import json
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, StreamReset

NAME, ADDRESS, PORT, CA, KEY = sys.argv[1:6]
PATH = b"/c/shop/a"


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http, self.ended = None, {}

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if isinstance(event, StreamReset):
            self.end(event.stream_id, f"reset {event.error_code:#x}")
        for said in self.http.handle_event(event) if self.http else []:
            if isinstance(said, HeadersReceived):
                self.end(said.stream_id, int(dict(said.headers)[b":status"]))

    def end(self, stream, what):
        ended = self.ended.get(stream)
        if ended is not None and not ended.done():
            ended.set_result(what)

    async def ask(self, head, content=b""):
        stream = self._quic.get_next_available_stream_id()
        self.ended[stream] = asyncio.get_running_loop().create_future()
        # aioquic would refuse to send some of these by its own methods.
        _, section = self.http._encoder.encode(stream, head)
        frame = b"\x01" + encode_uint_var(len(section)) + section
        if content:
            frame += b"\x00" + encode_uint_var(len(content)) + content
        self._quic.send_stream_data(stream, frame, end_stream=True)
        self.transmit()
        return await asyncio.wait_for(self.ended[stream], 10)


def head(method=b"GET", *more, without=None):
    pseudo = [(b":method", method), (b":scheme", b"https"), (b":authority", NAME.encode()), (b":path", PATH)]
    return [(name, value) for name, value in pseudo if name != without] + list(more)


async def main():
    trust = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=NAME, verify_mode=ssl.CERT_REQUIRED)
    trust.load_verify_locations(CA)
    told = {}
    async with connect(ADDRESS, int(PORT), configuration=trust, create_protocol=Client) as client:
        five = b"hello"
        asked = {
            "sound": (head(b"POST", (b"content-length", b"5")), five),
            "without a length": (head(b"POST"), five),
            "te": (head(b"GET", (b"te", b"trailers")), b""),
            "more content": (head(b"POST", (b"content-length", b"2")), five),
            "less content": (head(b"POST", (b"content-length", b"9")), five),
            "content of none": (head(b"POST", (b"content-length", b"0")), five),
            "none of content": (head(b"POST", (b"content-length", b"5")), b""),
            "more content of get": (head(b"GET", (b"content-length", b"2")), five),
            "two lengths": (head(b"POST", (b"content-length", b"5"), (b"content-length", b"2")), five),
            "no length": (head(b"POST", (b"content-length", b"x")), five),
            "connection": (head(b"GET", (b"connection", b"keep-alive")), b""),
            "transfer-encoding": (head(b"POST", (b"transfer-encoding", b"chunked")), five),
            "keep-alive": (head(b"GET", (b"keep-alive", b"1")), b""),
            "proxy-connection": (head(b"GET", (b"proxy-connection", b"close")), b""),
            "upgrade": (head(b"GET", (b"upgrade", b"h2c")), b""),
            "te of more": (head(b"GET", (b"te", b"gzip")), b""),
            "large letters": (head(b"GET", (b"X-A", b"1")), b""),
            "two paths": (head(b"GET", (b":path", b"/c/shop/b")), b""),
            "pseudo behind": (head(b"GET", (b"x", b"1"), (b":path", PATH), without=b":path"), b""),
            "status": (head(b"GET", (b":status", b"200")), b""),
            "unknown pseudo": (head(b"GET", (b":nobody", b"1")), b""),
            "no path": (head(without=b":path"), b""),
            "no scheme": (head(without=b":scheme"), b""),
            "no method": (head(without=b":method"), b""),
            "no authority": (head(without=b":authority"), b""),
            "two hosts": (head(b"GET", (b"host", NAME.encode()), (b"host", b"evil.example")), b""),
            "another host": (head(b"GET", (b"host", b"evil.example")), b""),
            "protocol": (head(b"GET", (b":protocol", b"webtransport")), b""),
            "sound at last": (head(), b""),
        }
        for what, (fields, content) in asked.items():
            told[what] = await client.ask(fields, content)
    print(json.dumps(told))


asyncio.run(asyncio.wait_for(main(), 60))
