"""A framer at one end of a socket pair, a client's half of the protocol at the other."""

import asyncio
import os
import socket
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from cellstore.server import framing
from cellstore.server.framing import Framer

SIZE_MAX = 1 << 20


class Pair:
    """A framer, what it told its owner, and the client."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.sent = 0
        self.closed = asyncio.Event()
        self.client = Protocol(CLIENT, state=OPEN, max_size=None)
        self.loop = asyncio.get_running_loop()

    async def open(self, ping_interval_s: float = 0) -> None:
        self.ours, theirs = socket.socketpair()
        for end in (self.ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            end.setblocking(False)
        self.framer = Framer(
            lambda: None, self.texts.append, self._left, self.closed.set,
            size_max=SIZE_MAX, ping_interval_s=ping_interval_s,
        )  # fmt: skip
        await self.loop.connect_accepted_socket(lambda: self.framer, theirs)

    def _left(self) -> None:
        self.sent += 1

    async def say(self) -> None:
        """Send what the client has to say."""
        for data in self.client.data_to_send():
            await self.loop.sock_sendall(self.ours, data)

    async def hear(self) -> list[Frame]:
        """The next frames that come; none once the server has closed."""
        while True:
            data = await self.loop.sock_recv(self.ours, 1 << 16)
            self.client.receive_data(data) if data else self.client.receive_eof()
            frames = self.client.events_received()
            if frames or not data:
                return [frame for frame in frames if isinstance(frame, Frame)]

    async def hear_texts(self, count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count:
            found += [bytes(frame.data) for frame in await self.hear() if frame.opcode is Opcode.TEXT]
        return found

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)


def play(scenario: Callable[[Pair], Coroutine[Any, Any, None]], ping_interval_s: float = 0) -> None:
    async def main() -> None:
        pair = Pair()
        await pair.open(ping_interval_s)
        async with asyncio.timeout(20):
            await scenario(pair)
        pair.ours.close()
        await asyncio.wait_for(pair.closed.wait(), 20)

    asyncio.run(main())


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.integers(1, 50))
def test_texts_arrive_whole_however_the_client_cuts_them(texts: list[bytes], cut: int) -> None:
    async def scenario(pair: Pair) -> None:
        for text in texts:
            pair.client.send_text(text[:cut], fin=len(text) <= cut)
            for start in range(cut, len(text), cut):
                pair.client.send_continuation(text[start : start + cut], fin=start + cut >= len(text))
        data = b"".join(pair.client.data_to_send())
        for start in range(0, len(data), 7):
            pair.framer.data_received(data[start : start + 7])
        assert pair.texts == texts

    play(scenario)


def test_texts_of_one_turn_leave_in_one_write_and_in_order() -> None:
    async def scenario(pair: Pair) -> None:
        writes: list[bytes] = []
        pair.framer._transport.write = writes.append  # type: ignore[method-assign]
        assert all(pair.framer.put(b"%d" % number) for number in range(5))
        assert not writes
        await asyncio.sleep(0)
        assert len(writes) == 1
        pair.client.receive_data(writes[0])
        assert [bytes(f.data) for f in pair.client.events_received() if isinstance(f, Frame)] == [
            b"0",
            b"1",
            b"2",
            b"3",
            b"4",
        ]

    play(scenario)


def test_a_reader_who_does_not_read_is_told_apart_and_gets_everything_once_it_does() -> None:
    async def scenario(pair: Pair) -> None:
        texts = [bytes([65 + number]) * 200_000 for number in range(4)]
        assert pair.framer.put(texts[0])
        await pair.until(lambda: pair.framer._full)
        assert [pair.framer.put(text) for text in texts[1:]] == [False] * 3
        await asyncio.sleep(0)
        assert pair.sent == 0
        assert await pair.hear_texts(4) == texts
        await pair.until(lambda: pair.sent == 3)
        assert pair.framer.put(b"as usual again")

    play(scenario)


def test_a_ping_is_answered_and_a_close_is_returned() -> None:
    async def scenario(pair: Pair) -> None:
        pair.client.send_ping(b"there?")
        await pair.say()
        [pong] = await pair.hear()
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"there?")
        pair.client.send_close(1000, "bye")
        await pair.say()
        [close] = await pair.hear()
        assert close.opcode is Opcode.CLOSE
        assert await pair.hear() == []

    play(scenario)


def test_what_was_put_before_a_close_arrives_before_it() -> None:
    async def scenario(pair: Pair) -> None:
        pair.framer.put(b"the reason")
        pair.framer.close(1008, "because")
        assert pair.framer.put(b"too late")  # nobody waits for it
        frames: list[Frame] = []
        while len(frames) < 2:
            frames += await pair.hear()
        assert bytes(frames[0].data) == b"the reason"
        assert Close.parse(bytes(frames[1].data)) == Close(1008, "because")

    play(scenario)


@pytest.mark.parametrize("data", [b"\x82\x81\0\0\0\0x", b"\x81\x01x", b"\x83\x80\0\0\0\0", b"\x80\x80\0\0\0\0"])
def test_what_is_no_text_or_no_frame_ends_the_connection_with_a_code(data: bytes) -> None:
    async def scenario(pair: Pair) -> None:
        pair.framer.data_received(data)
        [close] = await pair.hear()
        assert Close.parse(bytes(close.data)).code in (1002, 1003)

    play(scenario)


def test_more_at_once_than_allowed_is_refused_before_it_is_held() -> None:
    async def scenario(pair: Pair) -> None:
        pair.client.send_text(os.urandom(SIZE_MAX // 2), fin=False)
        pair.client.send_continuation(os.urandom(SIZE_MAX // 2 + 1), fin=True)
        pair.framer.data_received(b"".join(pair.client.data_to_send()))
        [close] = await pair.hear()
        assert Close.parse(bytes(close.data)).code == 1009
        assert pair.texts == []

    play(scenario)


def test_pings_of_a_client_that_reads_nothing_are_not_answered_for_ever() -> None:
    async def scenario(pair: Pair) -> None:
        for _ in range(1000):
            pair.client.send_ping(b"x" * 125)
        pings = b"".join(pair.client.data_to_send())
        for _ in range(100):
            if pair.closed.is_set():
                break
            pair.framer.data_received(pings)
            await asyncio.sleep(0)
        await pair.closed.wait()

    play(scenario)


def test_a_message_in_crumbs_takes_no_more_memory_than_its_bytes() -> None:
    async def scenario(pair: Pair) -> None:
        pair.client.send_text(b"", fin=False)
        for _ in range(50_000):
            pair.client.send_continuation(b"", fin=False)
        crumbs = b"".join(pair.client.data_to_send())
        tracemalloc.start()
        pair.framer.data_received(crumbs)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 100_000
        pair.client.send_continuation(b"whole", fin=True)
        pair.framer.data_received(b"".join(pair.client.data_to_send()))
        assert pair.texts == [b"whole"]

    play(scenario)


def test_whoever_does_not_answer_a_close_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "CLOSE_WAIT_S", 0.01)

    async def scenario(pair: Pair) -> None:
        pair.framer.close(1012, "ServerRestart")
        await pair.closed.wait()

    play(scenario)


def test_whoever_is_not_heard_of_for_two_pings_is_cut_off_and_who_answers_is_not() -> None:
    async def scenario(pair: Pair) -> None:
        for _ in range(4):
            assert [frame.opcode for frame in await pair.hear()] == [Opcode.PING]
            await pair.say()  # the pong
        assert not pair.closed.is_set()
        await pair.closed.wait()  # we read, but do not answer

    play(scenario, ping_interval_s=0.03)
