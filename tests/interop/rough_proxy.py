"""A network that misbehaves: a TCP proxy that delays, stalls, and cuts connections in the middle of a message."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress


class RoughProxy:
    """Listens on a port of its own, on a thread of its own, in front of `target`. Moods come and go."""

    def __init__(self, target: int, seed: int) -> None:
        self.target, self.is_calm, self.cuts, self.accepted = target, True, 0, 0
        self.is_there = True
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def rough(self) -> None:
        """From here on a bad network."""
        self.is_calm = False

    def calm(self) -> None:
        """From here on a good network."""
        self.is_calm = True

    def cut(self) -> None:
        """Cut everything; whoever dials again is let through."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def leave(self) -> None:
        """Cut everything, and let nobody through."""
        self.is_there = False
        self.cut()

    def come_back(self) -> None:
        """Let everybody through again."""
        self.is_there = True

    def stop(self) -> None:
        """Cut everything and end."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        await asyncio.sleep(0.02)  # who has been let in is known on a later turn of the loop,
        await self._cut()
        await asyncio.sleep(0.02)  # and what was aborted is closed on one

    async def _cut(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            with suppress(OSError):
                if not self.is_there:
                    return
                away_reader, away_writer = await asyncio.open_connection("127.0.0.1", self.target)
                await self._carry(reader, writer, away_reader, away_writer)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        away_reader: asyncio.StreamReader,
        away_writer: asyncio.StreamWriter,
    ) -> None:
        both = [
            asyncio.ensure_future(self._pump(reader, away_writer)),
            asyncio.ensure_future(self._pump(away_reader, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in both:
                pump.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            away_writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(65_536):
            if not self.is_calm:
                mood = self._chance.random()
                if mood < 0.03:  # cut in the middle of what is being said
                    self.cuts += 1
                    sink.write(piece[: len(piece) // 2])
                    with suppress(OSError):
                        await sink.drain()
                    return
                if mood < 0.05:  # swallowed: the other side never hears it, and the line is dead a moment later
                    self.cuts += 1
                    await asyncio.sleep(self._chance.random() * 0.5)
                    return
                if mood < 0.25:
                    await asyncio.sleep(self._chance.random() * 0.03)
            sink.write(piece)
            await sink.drain()
