"""What functions said is there after the server that heard it is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from runtime_harness import Stage, play

from cellstore.knobs import DEFAULTS, Knobs
from cellstore.runtime.log_file import Entry, LogFile
from cellstore.runtime.log_stream import LogStream
from cellstore.runtime.outcome import Outcome

SOURCE = """
    @cs.mutation
    def add(ctx, n: int):
        print("adding", n)
        if n == 2:
            raise ValueError("two")
"""


def said(stream: LogStream, *texts: str) -> None:
    for text in texts:
        stream.note("mutation", "m:add", Outcome(True, logs=[f"[LOG] {text}"]))


def lines(records: list[dict[str, Any]]) -> list[str]:
    return [line for record in records for line in record["lines"]]


def test_a_restart_goes_on_with_the_stream_and_a_follower_hears_nothing_twice(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    async def before(stage: Stage) -> None:
        await stage.mutate("add", n=1)
        failed = await stage.runner.mutation("m:add", {"n": 2})
        assert failed.error is not None
        logs = stage.runner.logs
        seen.update(name=logs.name, after=logs.last, id=failed.error.request_id, records=logs.tail(10))

    async def after(stage: Stage) -> None:
        logs = stage.runner.logs
        assert logs.name == seen["name"]
        assert logs.tail(10) == seen["records"], "numbers, times, request ids, durations, tracebacks"
        assert seen["id"] in [record["request_id"] for record in logs.tail(10)]
        await stage.mutate("add", n=3)
        assert lines(logs.after(seen["after"], 10)) == ["[LOG] adding 3"]

    play(tmp_path, SOURCE, before)
    play(tmp_path, None, after)


def test_a_crash_loses_the_last_moment_only_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")

    async def crashes() -> int:
        stream = LogStream(DEFAULTS, store)
        stream.start()
        said(stream, "one", "two")
        while not Path(f"{store}-logs").exists():
            await asyncio.sleep(0.01)
        said(stream, "lost")
        return stream.last  # never stopped

    async def starts_again() -> list[str]:
        stream = LogStream(DEFAULTS, store)
        stream.start()
        said(stream, "three")
        heard = lines(stream.tail(10))
        assert stream.last > shown, "what was lost may have been shown; its number is not given again"
        stream.stop()
        return heard

    shown = asyncio.run(crashes())
    with Path(f"{store}-logs").open("ab") as file:
        file.write(b'[3,17.0,"mutation","m:add","",["[LOG] half a li')
    assert asyncio.run(starts_again()) == ["[LOG] one", "[LOG] two", "[LOG] three"]
    assert [entry[5] for entry in LogFile(store, 1 << 20).load()][-1] == ["[LOG] three"], (
        "not lost behind the torn line"
    )


def test_what_the_disk_took_half_of_spoils_nothing_that_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entry(number: int) -> Entry:
        return number, 1.0, "query", "m:f", "", ["said"], True, "", 1.0

    def half(path: Path, mode: str) -> None:
        with opened(path, mode) as file:
            file.write(b'[2,1.0,"que')
        raise OSError(28, "No space left on device")

    file, opened = LogFile(str(tmp_path / "store.db"), 1 << 20), Path.open
    file.append([entry(1)])
    with monkeypatch.context() as full:
        full.setattr(Path, "open", half)
        file.append([entry(2)])
    file.append([entry(3)])
    assert [each[0] for each in file.load()] == [1, 3]


def test_the_files_stay_small_and_thousands_of_quiet_calls_leave_the_newest(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")

    async def much() -> None:
        stream = LogStream(Knobs(log_file_bytes=20_000), store)
        stream.start()
        for round_ in range(30):
            for _ in range(200):
                stream.note("query", "m:quiet", Outcome(True))
            said(stream, f"round {round_}")
            stream._write()
        stream.stop()

    asyncio.run(much())
    sizes = [Path(f"{store}-logs{suffix}").stat().st_size for suffix in ("", ".1")]
    assert all(0 < size < 40_000 for size in sizes)
    again = LogStream(DEFAULTS, store)
    assert "[LOG] round 29" in [line for entry in again._file.load() for line in entry[5]]


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        stream = LogStream(DEFAULTS, str(tmp_path / "gone" / "store.db"))
        stream.start()
        said(stream, "one")
        stream._write()
        assert lines(stream.tail(1)) == ["[LOG] one"]
        stream.stop()

    asyncio.run(scenario())


def test_who_waited_in_vain_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        stream = LogStream(DEFAULTS)
        for _ in range(3):
            await stream.more(0, 0.001)
        assert stream._waiting == []

    asyncio.run(scenario())
