"""What a transaction depends on: the write log beside a loop over everything, and read sets beside the answers themselves."""

from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellstore.errors import OutOfRetention, ValidationError
from cellstore.testing.workloads import table
from cellstore.transaction.access import DatabaseWriter
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import Commit, Lane
from cellstore.transaction.write_log import WriteLog
from cellstore.values.interval import IntervalSet

# ── the write log ─────────────────────────────────────────────────────────────────────────────────────────────────


def some_commits(dice, count):
    """Timestamps with gaps, few keys so that they meet or many so that they do not, some of a lane with rising positions."""
    ts, made, letters = 0, [], range(dice.choice((3, 40)))
    for position in range(1, count + 1):
        ts += dice.choice((1, 1, 7))
        lane = dice.choice((None, None, "L", "M"))
        keys = {}
        for _ in range(dice.choice((1, 2, 12))):
            keys.setdefault(dice.randrange(3), []).append(bytes(dice.choices(letters, k=3)))
        made.append(Commit(ts, keys, "", lane, position if lane else 0))
    return made


def some_reads(dice):
    reads = {}
    for index in dice.sample(range(4), dice.randrange(3)):
        spans = IntervalSet()
        for _ in range(dice.choice((1, 3, 15))):
            lo, hi = sorted(bytes(dice.choices((0, 1, 2, 255), k=dice.randrange(4))) for _ in range(2))
            spans.add(lo, dice.choice((hi, lo + b"\0")))
        if len(spans):
            reads[index] = list(spans)
    return reads


def touches(commit, reads):
    return any(lo <= key < hi for index, keys in commit.keys.items() for key in keys for lo, hi in reads.get(index, ()))


def first_by_hand(commits, reads, after_ts, lane=None):
    for commit in commits:
        seen = lane is not None and commit.lane == lane.id and commit.position <= lane.seen
        if commit.ts > after_ts and not seen and touches(commit, reads):
            return commit.ts
    return None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(100, 300))
def test_the_log_finds_the_first_commit_that_a_loop_finds(seed, count):
    dice = Random(seed)
    commits = some_commits(dice, count)
    log, known = WriteLog(), []
    for commit in commits:
        log.append(Commit(commit.ts, {index: list(keys) for index, keys in commit.keys.items()}, "", *lane_of(commit)))
        known.append(commit)
        if dice.random() < 0.02:  # a group could not be made durable
            after_ts = dice.choice(known[-5:]).ts
            log.truncate(after_ts)
            known = [commit for commit in known if commit.ts <= after_ts]
        if dice.random() < 0.1:  # whoever asks in between must not spoil what is asked later
            compare_with_loop(log, known, dice)
    compare_with_loop(log, known, dice)
    log.check()


def compare_with_loop(log, known, dice):
    for _ in range(5):
        reads, after_ts = some_reads(dice), dice.randrange(1 + (known[-1].ts if known else 0))
        if known and dice.random() < 0.5:  # a single key that a late commit wrote, and perhaps no other
            index, keys = next(iter(dice.choice(known[-12:]).keys.items()))
            reads = {index: [(keys[0], keys[0] + b"\0")]}
        lane = dice.choice((None, Lane("L", 999, dice.randrange(len(known) + 1)), Lane("M", 999, len(known))))
        found = log.conflict(reads, after_ts, lane)
        assert (found and found.write_ts) == first_by_hand(known, reads, after_ts, lane)
        assert log.first_hit(reads, after_ts) == first_by_hand(known, reads, after_ts)


def lane_of(commit):
    return commit.lane, commit.position


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(100, 400), st.integers(1, 900))
def test_a_trimmed_log_says_so_instead_of_guessing(seed, count, keys_max):
    dice = Random(seed)
    commits = some_commits(dice, count)
    log = WriteLog(knobs=SimpleNamespace(write_log_s=1e6, write_log_keys_max=keys_max))
    for commit in commits:
        log.append(commit)
        if log.needs_trim():
            log.trim()
    log.check()
    for _ in range(10):
        reads, after_ts = some_reads(dice), dice.randrange(commits[-1].ts)
        if after_ts < log.floor_ts:
            with pytest.raises(OutOfRetention):
                log.first_hit(reads, after_ts)
        else:
            assert log.first_hit(reads, after_ts) == first_by_hand(commits, reads, after_ts)


# ── read sets ─────────────────────────────────────────────────────────────────────────────────────────────────────

VALUE = st.integers(0, 5)
RANGE = st.one_of(
    st.tuples(st.just("all")),
    st.tuples(st.just("eq"), VALUE),
    st.tuples(st.just("between"), VALUE, VALUE),
    st.tuples(st.just("from"), VALUE),
    st.tuples(st.just("upto"), VALUE),
)
CONSUMER = st.one_of(
    st.tuples(st.sampled_from(["collect", "first", "count", "page", "unique"])),
    st.tuples(st.sampled_from(["take", "loop", "next page"]), st.integers(0, 3)),
    st.tuples(st.just("odd"), st.integers(1, 2)),
)
CHANGE = st.one_of(
    st.tuples(st.just("insert"), VALUE),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("move"), st.integers(0, 9), VALUE),
    st.tuples(st.just("touch"), st.integers(0, 9)),
)


def asked(query, how):
    match how:
        case ("all",):
            return query.with_index("by_x")
        case ("eq", value):
            return query.with_index("by_x", x=value)
        case ("between", low, high):
            return query.with_index("by_x", lambda q: q.gt("x", low).lte("x", high))
        case ("from", low):
            return query.with_index("by_x", lambda q: q.gte("x", low))
        case ("upto", high):
            return query.with_index("by_x", lambda q: q.lt("x", high))


def consumed(query, how):
    match how:
        case ("collect",):
            return query.collect()
        case ("first",):
            return query.first()
        case ("count",):
            return query.count()
        case ("page",):
            return query.paginate(num_items=2)["page"]
        case ("unique",):
            try:
                return query.unique()
            except ValidationError as two:
                return two.message
        case ("take", count):
            return query.take(count)
        case ("loop", count):
            return [document for _, document in zip(range(count), query, strict=False)]
        case ("next page", count):
            return query.paginate(num_items=1 + count, cursor=query.paginate(num_items=1)["continueCursor"])["page"]
        case ("odd", count):
            return query.filter(lambda one: one["x"] % 2).take(count)


def answer(transaction, how, consumer, descending):
    query = asked(DatabaseWriter(transaction).query("t"), how).order("desc" if descending else "asc")
    return consumed(query, consumer)


def change(transaction, how, ids):
    match how:
        case ("insert", value):
            transaction.insert("t", {"x": value})
        case ("delete", at) if ids:
            transaction.delete(ids[at % len(ids)])
        case ("move", at, value) if ids:
            transaction.patch(ids[at % len(ids)], {"x": value})
        case ("touch", at) if ids:
            transaction.patch(ids[at % len(ids)], {"y": 1})


@settings(max_examples=250, deadline=None)
@given(st.lists(VALUE, max_size=6), RANGE, CONSUMER, st.booleans(), CHANGE)
def test_a_commit_conflicts_with_a_query_exactly_when_it_changes_its_answer(
    values, how, consumer, descending, changing
):
    with Engine.memory() as engine:
        engine.define(table("t", by_x="x"))
        ids, _ = engine.run(lambda tx: [tx.insert("t", {"x": value}) for value in values])
        reader = engine.begin()
        before = answer(reader, how, consumer, descending)
        request = reader.freeze(writes=False)
        reader.close()
        engine.run(lambda tx: change(tx, changing, ids))
        with engine.begin() as later:
            after = answer(later, how, consumer, descending)
        conflict = engine.write_log.conflict(request.reads, request.begin_ts)
        if before != after:
            assert conflict is not None
        elif exact(consumer):
            assert conflict is None


def exact(consumer):
    """A filter reads what it passes over, a count stands still when a document moves within its range, two that are not
    unique are told by their ids, and a page behind another depends on that one, too."""
    return consumer[0] not in ("odd", "count", "unique", "next page")
