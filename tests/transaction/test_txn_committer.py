"""The committer: one order for all writes, refusals, replays, failures, and what the write log remembers."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from cellstore.errors import CellstoreError, ConflictError, FatalError, InvariantError, OutOfRetention, StorageError
from cellstore.knobs import Knobs
from cellstore.transaction import committer
from cellstore.transaction.catalog import membership
from cellstore.transaction.database import Engine
from cellstore.transaction.overlay import Overlay
from cellstore.transaction.requests import Commit, CommitRequest, Committed, Lane, Replayed
from cellstore.transaction.transaction import Transaction
from cellstore.transaction.write_log import BLOCK_COMMITS, WriteLog


class StoppedClock:
    """Always the same moment."""

    def now_ns(self) -> int:
        return 1000


def frozen(engine: Engine, work: Any, **more: Any) -> CommitRequest:
    with engine.begin() as tx:
        work(tx)
        return tx.freeze(**more)


def test_timestamps_rise_when_the_clock_does_not() -> None:
    with Engine.memory(clock=StoppedClock()) as engine:
        stamps = [engine.run(lambda tx: tx.insert("t", {}))[1] for _ in range(3)]
    assert stamps == [1000, 1001, 1002]


def test_a_group_is_published_once_and_in_order(engine: Engine) -> None:
    engine.run(lambda tx: tx.insert("t", {}))
    heard: list[list[int]] = []
    engine.committer.listeners.append(lambda commits: heard.append([commit.ts for commit in commits]))
    answers = engine.commit([frozen(engine, lambda tx: tx.insert("t", {})) for _ in range(3)])
    assert [answer.ts for answer in answers] == heard[0]
    assert heard[0] == sorted(heard[0])
    assert len(heard) == 1
    assert engine.published_ts == heard[0][-1]


def test_a_commit_tells_every_key_it_left_or_reached(engine: Engine, define: Any) -> None:
    engine.define(define("t", by_n="n"))
    id = engine.run(lambda tx: tx.insert("t", {"n": 1}))[0]
    heard: list[Commit] = []
    engine.committer.listeners.append(heard.extend)
    engine.run(lambda tx: tx.patch(id, {"n": 2}))
    meta = engine.catalog.table("t")
    assert meta is not None
    by_n = meta.indexes["by_n"].number
    touched = {index: len(keys) for index, keys in heard[0].keys.items()}
    assert touched == {2 * meta.number: 1, 2 * meta.number + 1: 1, by_n: 2, membership(by_n): 2}


def test_a_repeated_request_is_answered_and_not_done_again(engine: Engine) -> None:
    ask = ("session", 1)
    first = frozen(engine, lambda tx: tx.insert("t", {}), request=ask, result=b'"first"')
    again = frozen(engine, lambda tx: tx.insert("t", {}), request=ask, result=b'"again"')
    later = frozen(engine, lambda tx: tx.insert("t", {}), request=ask, result=b'"later"')
    done, repeated = engine.commit([first, again])
    assert isinstance(done, Committed)
    assert repeated == Replayed(done.ts, b'"first"')
    (replayed,) = engine.commit([later])
    assert isinstance(replayed, Replayed)
    assert replayed.result == b'"first"'
    assert engine.request(*ask) == b'"first"'
    assert engine.request("session", 2) is None
    with engine.begin() as tx:
        assert tx.count("t") == 1


def test_reads_alone_can_be_validated(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("t", {}))[0]
    request = frozen(engine, lambda tx: (tx.get(id), tx.insert("t", {})), writes=False)
    assert request.writes == []
    assert engine.commit([request]) == [Committed(engine.published_ts)]
    engine.run(lambda tx: tx.delete(id))
    assert isinstance(engine.commit([request])[0], ConflictError)


def test_run_tries_again_until_it_fits(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("t", {"n": 0}))[0]
    attempts = []

    def work(tx: Transaction) -> None:
        n = tx.get(id)["n"]
        attempts.append(n)
        if len(attempts) < 3:
            engine.run(lambda other: other.patch(id, {"n": n + 10}))
        tx.patch(id, {"n": n + 1})

    engine.run(work)
    assert attempts == [0, 10, 20]


def test_run_cannot_get_past_what_it_commits_itself(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("t", {"n": 0}))[0]

    def work(tx: Transaction) -> None:
        tx.patch(id, {"n": tx.get(id)["n"] + 1})
        engine.run(lambda other: other.patch(id, {"n": other.get(id)["n"] + 1}))

    with pytest.raises(ConflictError, match="inside what this transaction read"):
        engine.run(work, "busy")


def test_threads_lose_no_update(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("t", {"n": 0}))[0]

    def count() -> None:
        for _ in range(25):
            engine.run(lambda tx: tx.patch(id, {"n": tx.get(id)["n"] + 1}))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.begin() as tx:
        assert tx.get(id)["n"] == 100


class Broken:
    """A storage whose next append fails."""

    def __init__(self, storage: Any, error: Exception) -> None:
        self._storage, self._error = storage, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def append(self, records: Sequence[Any], on_visible: Any = None) -> None:
        raise self._error


def test_a_full_disk_writes_nothing_and_the_store_goes_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.run(lambda tx: tx.insert("t", {}))
    before = engine.published_ts
    request = frozen(engine, lambda tx: (tx.count("t"), tx.insert("t", {})))
    with monkeypatch.context() as patch:
        patch.setattr(engine.committer, "_storage", Broken(engine.storage, StorageError("the disk is full")))
        assert isinstance(engine.commit([request])[0], StorageError)
    assert engine.published_ts == before
    engine.write_log.check()
    assert isinstance(engine.commit([request])[0], Committed), "what was refused conflicts with nobody"


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "in one group"])
def test_an_id_that_an_import_brought_first_is_drawn_again(engine: Engine, together: bool) -> None:
    engine.run(lambda tx: tx.insert("t", {}))
    with engine.begin() as tx:
        drawn = tx.insert("t", {"drawn": True})
        request = tx.freeze("drawn")
    imported = frozen(engine, lambda tx: tx.insert("t", {"drawn": False}, id=drawn))
    groups = [[imported, request]] if together else [[imported], [request]]
    answers = [answer for group in groups for answer in engine.commit(group)]
    assert isinstance(answers[-1], ConflictError)
    assert drawn in str(answers[-1])
    assert isinstance(answers[0], ConflictError if together else Committed), "a group that was refused is run again"
    engine.run(lambda tx: tx.insert("t", {}))
    assert list(engine.storage.check(engine.catalog.keys_of)) == []


def test_an_unknown_fate_stops_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.memory()
    monkeypatch.setattr(engine.committer, "_storage", Broken(engine.storage, OSError("somewhere in the middle")))
    request = frozen(engine, lambda tx: tx.insert("t", {}))
    for _ in range(2):
        with pytest.raises(FatalError, match="nobody knows"):
            engine.commit([request])


def test_a_request_survives_the_wire(engine: Engine, define: Any) -> None:
    engine.define(define("t", by_n="n"))
    a, b = engine.run(lambda tx: [tx.insert("t", {"n": n, "x": "ä"}) for n in range(2)])[0]

    def work(tx: Transaction) -> None:
        tx.count("t", "by_n")
        tx.insert("t", {"n": 5, "b": b"\0\xff"})
        tx.patch(a, {"n": 9})
        tx.patch(a, {"y": 1})
        tx.delete(b)

    request = frozen(engine, work, source="m:f", request=("s", 1 << 40), result=b'{"a":1}')
    request.lane = Lane("l", 3, 2, 1)
    assert CommitRequest.from_wire(orjson.loads(orjson.dumps(request.to_wire()))) == request


# ── the lane ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def add(engine: Engine, overlay: Overlay, id: str, amount: int) -> CommitRequest:
    """One mutation in the lane: add to a counter."""
    with engine.begin(overlay=overlay) as tx:
        tx.patch(id, {"n": tx.get(id)["n"] + amount})
        request = tx.freeze("lane")
    overlay.apply(request)
    return request


def test_lanes_that_are_over_are_not_remembered_for_ever(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "_LANES_KNOWN_MAX", 10)
    id = engine.run(lambda tx: tx.insert("t", {"n": 0}))[0]
    for number in range(1, 30):
        overlay = Overlay(f"L{number}")
        late = [add(engine, overlay, id, 1) for _ in range(2)]
        engine.run(lambda tx, number=number: tx.patch(id, {"n": number}))
        assert [type(result) for result in engine.commit(late)] == [ConflictError] * 2
    assert len(engine.committer._refused) == 10


def test_a_lane_conflicts_with_nothing_of_its_own_however_far_behind(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("t", {"n": 0}))[0]
    overlay = Overlay("L")
    sent = [add(engine, overlay, id, 1) for _ in range(10)]
    for at in range(0, 10, 3):
        answers = engine.commit(sent[at : at + 3])
        assert all(isinstance(answer, Committed) for answer in answers)
    assert not overlay.empty
    more = add(engine, overlay, id, 1)
    assert isinstance(engine.commit([more])[0], Committed)
    overlay.acknowledge(overlay.position, engine.published_ts)
    assert overlay.empty
    with engine.begin(overlay=overlay) as tx:
        assert tx.get(id)["n"] == 11
        assert tx.begin_ts == engine.published_ts


def test_a_refused_mutation_takes_along_those_who_may_have_seen_it(engine: Engine) -> None:
    id, other = engine.run(lambda tx: [tx.insert("t", {"n": 0}) for _ in range(2)])[0]
    overlay = Overlay("L")
    first = add(engine, overlay, id, 1)
    engine.run(lambda tx: tx.patch(id, {"n": 100}))
    second = add(engine, overlay, other, 1)
    assert [type(answer) for answer in engine.commit([first, second])] == [ConflictError, ConflictError]
    third = add(engine, overlay, other, 1)  # sent before the lane heard of the refusal
    assert isinstance(engine.commit([third])[0], ConflictError)
    overlay.refuse(1)
    overlay.refuse(2)
    overlay.refuse(3)
    assert overlay.empty
    fourth = [add(engine, overlay, id, 1), add(engine, overlay, other, 1)]
    assert all(isinstance(answer, Committed) for answer in engine.commit(fourth))


def test_a_failure_on_a_state_that_will_never_be_can_be_told(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("t", {"n": 0}))[0]
    overlay = Overlay("L")
    first = add(engine, overlay, id, 1)
    with engine.begin(overlay=overlay) as tx:
        assert tx.get(id)["n"] == 1  # suppose this made the function raise
        failed = tx.freeze(writes=False)
    overlay.apply(failed)
    engine.run(lambda tx: tx.patch(id, {"n": 100}))
    assert [type(answer) for answer in engine.commit([first, failed])] == [ConflictError, ConflictError]


def test_two_lanes_conflict_with_each_other(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("t", {"n": 0}))[0]
    one, two = Overlay("one"), Overlay("two")
    answers = engine.commit([add(engine, one, id, 1), add(engine, two, id, 1)])
    assert [type(answer) for answer in answers] == [Committed, ConflictError]


def test_a_deleted_document_stays_deleted_in_the_overlay(engine: Engine) -> None:
    a, b = engine.run(lambda tx: [tx.insert("t", {"n": n}) for n in range(2)])[0]
    overlay = Overlay("L")
    with engine.begin(overlay=overlay) as tx:
        tx.delete(a)
        tx.patch(b, {"n": 7})
        overlay.apply(tx.freeze())
    with engine.begin(overlay=overlay) as tx:
        assert tx.get(a) is None
        assert [document["n"] for _, document in tx.scan("t")] == [7]
        assert tx.count("t") == 1
        assert tx.count("t", "by_id") == 1


# ── the write log ─────────────────────────────────────────────────────────────────────────────────────────────────────


def hit(commits: list[Commit], reads: Any, after: int, lane: Lane | None) -> int | None:
    """The write log, said slowly."""
    for commit in commits:
        if commit.ts <= after or (lane and commit.lane == lane.id and commit.position <= lane.seen):
            continue
        for index, keys in commit.keys.items():
            if any(lo <= key < hi for key in keys for lo, hi in reads.get(index, ())):
                return commit.ts
    return None


@pytest.mark.parametrize("seed", range(20))
def test_the_log_finds_what_a_slow_search_finds(seed: int) -> None:
    rnd = random.Random(seed)
    log, commits = WriteLog(), []
    positions = {"a": 0, "b": 0}

    def key() -> bytes:
        return rnd.randbytes(1 + rnd.randrange(2))

    for ts in range(1, rnd.choice([10, BLOCK_COMMITS, 4 * BLOCK_COMMITS])):
        lane = rnd.choice([None, "a", "a", "b"])
        if lane:
            positions[lane] += 1
        keys = {index: [key() for _ in range(rnd.choice([1, 2, 20]))] for index in rnd.sample(range(4), 2)}
        commits.append(Commit(ts, keys, "", lane, positions.get(lane or "", 0)))
        log.append(commits[-1])
        log.check()
        reads: dict[int, list[tuple[bytes, bytes]]] = {}
        for index in rnd.sample(range(4), 2):
            points = sorted({key() for _ in range(rnd.choice([1, 12]))})
            reads[index] = [(point, point + b"\0") for point in points] if rnd.random() < 0.7 else [(b"\x10", b"\x18")]
        after = rnd.randrange(ts + 1)
        lane_now = rnd.choice(
            [None, Lane("a", positions["a"] + 1, rnd.randint(max(0, positions["a"] - 2), positions["a"]))]
        )
        found = log.conflict(reads, after, lane_now)
        assert (found.write_ts if found else None) == hit(commits, reads, after, lane_now)
        assert log.first_hit(reads, after) == hit(commits, reads, after, None)


def test_the_log_forgets_and_says_so() -> None:
    log = WriteLog(0, Knobs(write_log_keys_max=100))
    for ts in range(1, 3 * BLOCK_COMMITS):
        log.append(Commit(ts, {2: [b"k", b"l"]}))
        if log.needs_trim():
            log.trim()
        log.check()
    assert 0 < len(log) < 2 * BLOCK_COMMITS
    with pytest.raises(OutOfRetention):
        log.conflict({2: [(b"a", b"b")]}, log.floor_ts - 1)
    assert log.conflict({}, 0) is None, "who read nothing conflicts with nothing, however late"
    assert log.conflict({2: [(b"a", b"b")]}, log.floor_ts) is None


def test_the_log_can_take_back_its_newest_commits() -> None:
    log = WriteLog()
    for ts in range(1, 2 * BLOCK_COMMITS + 5):
        log.append(Commit(ts, {2: [b"%03d" % ts]}))
    assert log.first_hit({2: [(b"003", b"999")]}, 2) == 3
    log.truncate(BLOCK_COMMITS + 3)
    log.check()
    log.append(Commit(1000, {2: [b"x"]}))
    assert log.first_hit({2: [(b"067", b"999")]}, BLOCK_COMMITS + 2) == BLOCK_COMMITS + 3
    assert log.first_hit({2: [(b"068", b"999")]}, 0) is None


@pytest.mark.parametrize("kind", [StorageError, InvariantError])
def test_what_a_listener_raises_is_not_taken_for_a_refusal(engine: Engine, kind: type[CellstoreError]) -> None:
    def broken(_commits: Sequence[Commit]) -> None:
        raise kind("broken")

    request = frozen(engine, lambda tx: tx.insert("t", {}))
    with pytest.raises(FatalError, match="broken"):
        engine.commit([request], broken)
    with pytest.raises(FatalError, match="broken"):
        engine.run(lambda tx: tx.insert("t", {}))
