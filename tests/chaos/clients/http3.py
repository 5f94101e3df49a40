"""HTTP/3 and WebTransport, asked by aioquic. Arguments: host name, address, port, CA file, app key. Prints one JSON object."""

import asyncio
import json
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, StreamDataReceived, StreamReset

NAME, ADDRESS, PORT, CA, KEY = sys.argv[1:6]


class Client(QuicConnectionProtocol):
    """What comes on each stream is put together until the stream ends."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = None
        self.heard, self.done, self.heads = {}, {}, {}
        # aioquic takes what comes on a session's stream that it opened itself for HTTP/3's frames.
        self.raw = set()

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic, enable_webtransport=True)
        if isinstance(event, StreamReset):
            self.end(event.stream_id)
        if isinstance(event, StreamDataReceived) and event.stream_id in self.raw:
            self.heard.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.end_stream:
                self.end(event.stream_id)
            return
        for said in self.http.handle_event(event) if self.http else []:
            if isinstance(said, HeadersReceived):
                self.heads[said.stream_id] = dict(said.headers)
                self.head(said.stream_id).set()
            elif isinstance(said, DataReceived):
                self.heard.setdefault(said.stream_id, bytearray()).extend(said.data)
            if getattr(said, "stream_ended", False):
                self.end(said.stream_id)

    def head(self, stream):
        return self.done.setdefault(("head", stream), asyncio.Event())

    def body(self, stream):
        return self.done.setdefault(("body", stream), asyncio.Event())

    def end(self, stream):
        self.head(stream).set()
        self.body(stream).set()

    def begin(self, method, path, more=(), end=True):
        stream = self._quic.get_next_available_stream_id()
        head = [(b":method", method), (b":scheme", b"https"), (b":authority", NAME.encode()), (b":path", path.encode())]
        self.http.send_headers(stream, head + list(more), end_stream=end)
        return stream

    async def ask(self, method, path, body=None):
        more = [(b"authorization", b"Bearer " + KEY.encode())]
        if body is not None:
            more.append((b"content-type", b"application/json"))
        stream = self.begin(method, path, more, end=body is None)
        if body is not None:
            self.http.send_data(stream, json.dumps(body).encode(), end_stream=True)
        self.transmit()
        await self.body(stream).wait()
        return int(self.heads[stream][b":status"]), bytes(self.heard.get(stream, b"")), self.heads[stream]

    async def session(self, path, origin):
        more = [(b":protocol", b"webtransport"), (b"origin", origin), (b"sec-webtransport-http3-draft02", b"1")]
        stream = self._quic.get_next_available_stream_id()
        head = [(b":method", b"CONNECT"), (b":scheme", b"https"), (b":authority", NAME.encode()), (b":path", path.encode())]
        self.http.send_headers(stream, head + more)
        self.transmit()
        await self.head(stream).wait()
        return stream, int(self.heads[stream][b":status"])

    async def say(self, session, asked, one_way=False):
        stream = self.http.create_webtransport_stream(session, is_unidirectional=one_way)
        self.raw.add(stream)
        self._quic.send_stream_data(stream, json.dumps(asked).encode(), end_stream=True)
        self.transmit()
        if one_way:
            return None
        await self.body(stream).wait()
        return json.loads(bytes(self.heard[stream]))


async def main():
    trust = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=NAME, verify_mode=ssl.CERT_REQUIRED)
    trust.max_datagram_frame_size = 65536
    trust.load_verify_locations(CA)
    told = {}
    async with connect(ADDRESS, int(PORT), configuration=trust, create_protocol=Client) as client:
        want = {"user_id": "h3", "slot": "home", "count": 5}
        status, body, head = await client.ask(b"POST", "/v1/recommend", want)
        told["recommend"] = [status, json.loads(body)]
        told["has_date"] = b"date" in head
        status, body, head = await client.ask(b"GET", "/nowhere")
        told["nowhere"] = [status, json.loads(body)["code"]]
        many = await asyncio.gather(*(client.ask(b"POST", "/v1/recommend", want) for _ in range(50)))
        told["many"] = sorted({status for status, _, _ in many})
        _, told["stranger"] = await client.session("/v1/session?key=wrong", b"https://shop.example")
        session, told["session"] = await client.session(f"/v1/session?key={KEY}", b"https://shop.example")
        said = await client.say(session, {"path": "/v1/recommend", "body": want})
        told["said"] = [said["status"], len(said["body"]["items"])]
        event = {"user_id": "h3", "type": "click", "item": "i3", "slot": "home"}
        said = await client.say(session, {"path": "/v1/events", "body": {"events": [event]}})
        told["event"] = [said["status"], said["body"]["accepted"]]
        await client.say(session, {"path": "/v1/events", "body": {"events": [event]}}, one_way=True)
        said = await client.say(session, {"path": "/v1/nowhere", "body": {}})
        told["wrong_path"] = [said["status"], said["body"]["code"]]
        said = await client.say(session, {"path": "/v1/recommend"})
        told["wrong_form"] = [said["status"], said["body"]["code"]]
        many = await asyncio.gather(
            *(client.say(session, {"path": "/v1/recommend", "body": want}) for _ in range(50))
        )
        told["many_said"] = sorted({said["status"] for said in many})
    print(json.dumps(told))


asyncio.run(asyncio.wait_for(main(), 30))
