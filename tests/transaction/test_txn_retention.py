"""History is given up in slices no writer notices, and whoever asks for it then is told."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cellstore.errors import OutOfRetention
from cellstore.knobs import Knobs
from cellstore.transaction import retention
from cellstore.transaction.database import Engine

KNOBS = Knobs(retention_s=10.0, request_retention_s=100.0, requests_kept_max=3)


class HandClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.ns = 10**18

    def now_ns(self) -> int:
        return self.ns

    def pass_s(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Any:
    memory = request.param == "memory"
    made = (
        Engine.memory(clock=clock, knobs=KNOBS) if memory else Engine.open(tmp_path / "s.db", clock=clock, knobs=KNOBS)
    )
    with made as engine:
        yield engine
        assert list(engine.storage.check(engine.catalog.keys_of)) == []


def test_a_moment_inside_the_window_stays_and_one_outside_is_refused(engine: Engine, clock: HandClock) -> None:
    id, old = engine.run(lambda tx: tx.insert("t", {"n": 0}))
    clock.pass_s(8)
    _, recent = engine.run(lambda tx: tx.patch(id, {"n": 1}))
    clock.pass_s(8)
    engine.run(lambda tx: tx.patch(id, {"n": 2}))
    engine.retention.drain()
    with engine.begin(recent) as tx:
        assert tx.get(id)["n"] == 1  # type: ignore[index]
    with pytest.raises(OutOfRetention, match=r"older than the history kept.*read a newer one.*retention_s") as refused:
        engine.begin(old)
    assert refused.value.ts == old < refused.value.min_snapshot_ts <= recent


def test_what_is_current_never_goes_however_old(engine: Engine, clock: HandClock) -> None:
    id, ts = engine.run(lambda tx: tx.insert("t", {"n": 0}))
    clock.pass_s(10**6)
    engine.retention.drain()
    with engine.begin() as tx:
        assert tx.get(id)["n"] == 0  # type: ignore[index]
        assert tx.count("t") == 1
    engine.begin(ts).close()


def test_a_clock_that_was_ahead_by_years_leaves_history_as_long_as_the_window(engine: Engine, clock: HandClock) -> None:
    id, _ = engine.run(lambda tx: tx.insert("t", {"n": 0}))
    clock.pass_s(10**9)
    _, ahead = engine.run(lambda tx: tx.patch(id, {"n": 1}))
    clock.pass_s(-(10**9))
    moments = []
    for n in range(2, 60):
        moments.append(engine.run(lambda tx, n=n: tx.patch(id, {"n": n}))[1])
        clock.pass_s(1)
        engine.retention.drain()
    assert ahead < moments[0]
    with closing(engine.storage.reader()) as reader:
        assert 10 <= len(reader.log(0, reader.refresh(), 100)) <= 13, "a second each, and the window is ten"
    with engine.begin(moments[-9]) as tx:
        assert tx.get(id)["n"] == 51  # type: ignore[index]
    with pytest.raises(OutOfRetention):
        engine.begin(moments[-20])


def test_a_clock_that_goes_back_and_back_again_gives_up_nothing_too_early(engine: Engine, clock: HandClock) -> None:
    id, _ = engine.run(lambda tx: tx.insert("t", {"n": 0}))
    for _ in range(3):
        clock.pass_s(8)
        _, recent = engine.run(lambda tx: tx.patch(id, {"n": tx.get(id)["n"] + 1}))  # type: ignore[index]
        engine.retention.drain()
        clock.pass_s(-7)
        engine.retention.drain()
        engine.begin(recent).close()


def test_a_client_that_was_away_for_days_is_still_answered(engine: Engine, clock: HandClock) -> None:
    for number in range(1, 8):
        with engine.begin() as tx:
            tx.insert("t", {"n": number})
            engine.commit([tx.freeze(request=("s", number), result=b"%d" % number)])
    clock.pass_s(50)
    engine.run(lambda tx: tx.insert("t", {}))
    engine.retention.drain()
    assert [engine.request("s", n) for n in (1, 4, 5, 7)] == [None, None, b"5", b"7"]
    clock.pass_s(100)
    engine.run(lambda tx: tx.insert("t", {}))
    engine.retention.drain()
    assert engine.request("s", 7) is None


def test_a_transaction_that_began_before_the_window_reads_on(engine: Engine, clock: HandClock) -> None:
    ids = engine.run(lambda tx: [tx.insert("t", {"n": n}) for n in range(700)])[0]
    with engine.begin() as tx:
        rows = tx.scan("t")
        next(rows)
        clock.pass_s(20)
        engine.run(lambda tx: [tx.delete(id) for id in ids])
        engine.retention.drain()
        assert len(list(rows)) == 699


def test_slices_grow_to_their_time_and_no_further(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where a row takes 10 µs, at every load."""
    now = [0.0]
    monkeypatch.setattr(retention, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    knobs = Knobs(retention_s=1.0, trim_slice_s=0.002)
    with Engine.open(tmp_path / "s.db", clock=clock, knobs=knobs) as engine:
        ids = engine.run(lambda tx: [tx.insert("t", {"n": 0}) for _ in range(500)])[0]
        for n in range(20):
            engine.run(lambda tx, n=n: [tx.patch(id, {"n": n + 1}) for id in ids])
        clock.pass_s(5)
        trim, rows = engine.storage.trim, []

        def timed(*args: Any, **options: Any) -> int:
            rows.append(trim(*args, **options))
            now[0] += rows[-1] * 10e-6
            return rows[-1]

        monkeypatch.setattr(engine.storage, "trim", timed)
        waits = [engine.retention.slice()]
        while waits[-1] < 0.1:
            waits.append(engine.retention.slice())
        assert max(rows) == 200, "two milliseconds"
        assert rows[0] < rows[1] < rows[2] <= 400, "it is found out, not known"
        assert sum(rows) * 10e-6 * 2 < sum(waits[:-1]), "and most of the time is left to writers"


def test_the_file_stops_growing_under_a_stream_of_updates(tmp_path: Path, clock: HandClock) -> None:
    path, sizes = tmp_path / "s.db", []
    with Engine.open(path, clock=clock, knobs=Knobs(retention_s=1.0)) as engine:
        ids = engine.run(lambda tx: [tx.insert("t", {"n": 0, "pad": "x" * 200}) for _ in range(100)])[0]
        for n in range(1, 121):
            engine.run(lambda tx, n=n: [tx.patch(id, {"n": n}) for id in ids])
            clock.pass_s(0.1)
            engine.retention.drain()
            if n % 10 == 0:
                engine.storage._connection.wal_checkpoint(mode=3)  # type: ignore[attr-defined]
                sizes.append(path.stat().st_size)
        assert max(sizes[5:]) <= sizes[4], "what was given up is used again"
        assert list(engine.check()) == []


def test_trimming_while_others_write_and_read_loses_nothing(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "s.db", knobs=Knobs(retention_s=0.02)) as engine:
        ids = engine.run(lambda tx: [tx.insert("t", {"n": 0}) for _ in range(20)])[0]
        done = threading.Event()
        trimmed = []

        def keep_trimming() -> None:
            while not done.is_set():
                trimmed.append(engine.retention.slice())

        thread = threading.Thread(target=keep_trimming)
        thread.start()
        try:
            for n in range(150):
                engine.run(lambda tx, n=n: [tx.patch(id, {"n": tx.get(id)["n"] + 1}) for id in ids[: n % 20]])  # type: ignore[index]
                with engine.begin() as tx:
                    assert sum(row["n"] for _, row in tx.scan("t")) == sum(k % 20 for k in range(n + 1))
        finally:
            done.set()
            thread.join()
        assert len(trimmed) > 5
        assert list(engine.check()) == []
