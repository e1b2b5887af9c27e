"""Convex's semantics, item by item: the checklist at the end of the reference, and the tests that show each.

`CHECKLIST` has the items in their order. Most are shown where the thing lives, and are named here as `directory/file::test`
or as a golden script; those that were shown nowhere else are below. Where design.md decides otherwise, the item says so.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cellstore as cs
from cellstore.errors import ConflictError, LimitExceeded, ValidationError
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.testing.store import StoreUnderTest
from cellstore.transaction.access import DatabaseReader
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import Committed, Replayed

TESTS = Path(__file__).parents[1]
HERE = "model/test_conformance.py"
SCRIPTS, DIALOGUES = "scripts/txn", "unit/reactivity/dialogues"

CHECKLIST: dict[int, tuple[str, list[str]]] = {
    1: (
        "No torn reads inside a query during concurrent commits",
        [
            f"{SCRIPTS}/read_skew.txt",
            f"{SCRIPTS}/g_single_by_predicate.txt",
            "contract/test_storage.py::test_a_scan_under_way_does_not_see_later_commits",
            "model/test_model_threads.py::test_threads_on_one_engine_are_serializable",
        ],
    ),
    2: ("Write skew is prevented", [f"{SCRIPTS}/write_skew.txt", f"{SCRIPTS}/write_skew_by_id.txt"]),
    3: (
        "Two cannot count and then insert on stale counts",
        [
            f"{SCRIPTS}/phantom.txt",
            f"{SCRIPTS}/phantom_count.txt",
            "transaction/test_txn_counts.py::test_counting_then_inserting_twice_is_a_phantom_and_refused",
        ],
    ),
    4: ("first() depends on what is before its hit, not on what is after", [f"{SCRIPTS}/first_and_take.txt"]),
    5: ("take(n) depends on its n, not on the next one", [f"{SCRIPTS}/first_and_take.txt"]),
    6: ("unique() is touched by another match", [f"{SCRIPTS}/unique.txt"]),
    7: (
        "A look for a missing id is touched by its coming",
        [
            f"{HERE}::test_a_look_for_an_id_that_is_not_there_is_touched_by_its_coming",
            f"{SCRIPTS}/missing_document.txt",
        ],
    ),
    8: ("A patch that changes nothing wakes nobody", [f"{SCRIPTS}/no_change.txt"]),
    9: (
        "The order of kinds; by the design numbers are one order and -0.0 equals 0.0",
        [
            "property/test_key_order.py::test_kinds_sort_in_the_documented_order",
            "property/test_key_order.py::test_numbers_sort_as_exact_fractions_do",
            "property/test_key_order.py::test_nan_sorts_above_every_number_and_equals_itself",
        ],
    ),
    10: (
        "eq(UNSET) finds missing fields, lt(x) includes them",
        ["transaction/test_txn_access.py::test_missing_fields_sort_first_and_can_be_asked_for"],
    ),
    11: (
        "Ties are broken by creation time, then id; descending is the mirror",
        [
            "transaction/test_txn_access.py::test_creation_time_breaks_ties_and_bounds_a_scan",
            "property/test_values_order.py::test_whole_keys_order_by_fields_then_time_then_id",
        ],
    ),
    12: (
        "UNSET removes, nested objects are replaced whole, writes of a missing document raise",
        ["transaction/test_txn_access.py::test_every_write_has_its_two_forms"],
    ),
    13: (
        "Strict objects, optional against None, unions, literals, dicts; the path is in the message",
        [
            "transaction/test_txn_schema.py::test_what_fits_is_stored",
            "transaction/test_txn_schema.py::test_what_does_not_fit_is_named_by_its_path",
            "transaction/test_txn_schema.py::test_optional_is_not_none",
        ],
    ),
    14: (
        "A schema is refused by a bad document; a bad write meanwhile fails the deploy, not the write",
        [
            "transaction/test_txn_definitions.py::test_a_document_that_does_not_fit_refuses_the_schema_and_nothing_changes",
            "transaction/test_txn_definitions.py::test_a_write_meanwhile_that_breaks_only_the_new_schema_fails_the_change",
            "transaction/test_txn_definitions.py::test_a_write_at_the_last_moment_fails_the_change_too",
            f"{HERE}::test_a_write_during_a_deploy_stays_and_only_what_stays_wrong_refuses_it",
        ],
    ),
    15: (
        "A nested mutation that fails leaves no writes, and its reads",
        [
            f"{SCRIPTS}/savepoints.txt",
            "runtime/test_pool.py::test_a_nested_mutation_that_fails_leaves_nothing_and_the_outer_one_goes_on",
        ],
    ),
    16: (
        "Subscriptions of one client are always of one timestamp",
        [
            f"{DIALOGUES}/several_queries_move_together.txt",
            "client/test_live_sets.py::test_several_queries_are_always_of_one_moment",
            "interop/test_one_query_many_clients.py::test_no_client_ever_shows_money_on_its_way",
        ],
    ),
    17: (
        "A mutation's promise resolves when its effects are visible",
        [
            "client/test_machine.py::test_a_mutation_is_over_when_its_effects_are_on_screen",
            "interop/test_published_clients.py::test_a_promise_resolves_when_its_effects_are_shown",
            f"{HERE}::test_when_a_mutation_returns_every_live_query_shows_it",
        ],
    ),
    18: (
        "Optimistic values give way without flicker, also when the first of two fails",
        [
            "client/test_live_sets.py::test_a_guess_is_shown_at_once_and_gives_way_to_what_is_true",
            "client/test_live_sets.py::test_of_two_guesses_the_first_may_fail_and_the_second_does_not_flicker",
        ],
    ),
    19: (
        "A repeated request gets the stored result and has no second effect",
        [
            "server/test_socket.py::test_a_repeated_request_of_a_session_runs_once",
            "transaction/test_txn_committer.py::test_a_repeated_request_is_answered_and_not_done_again",
            f"{HERE}::test_a_repeated_request_is_known_after_a_restart_and_one_that_was_refused_is_not",
            "server/test_while_the_disk_works.py::test_what_was_not_answered_is_sent_again_and_has_happened_once",
        ],
    ),
    20: (
        "Pages have no gaps and no duplicates; a cursor of another query is refused",
        [
            "property/test_live_pages.py::test_pages_have_no_gaps_and_no_duplicates_while_documents_move",
            "transaction/test_txn_access.py::test_a_cursor_of_another_query_is_refused",
            f"{HERE}::test_two_pages_stay_whole_whatever_crosses_their_edge",
            "server/test_traps.py::test_a_cursor_of_another_query_makes_hooks_begin_again",
        ],
    ),
    21: (
        "Scheduled mutations happen once and actions at most once, through crashes",
        [
            "crash/test_job_kill.py::test_killed_at",
            "crash/test_job_kill.py::test_killed_again_while_an_interrupted_action_is_failed",
            "server/test_jobs_survive.py::test_scheduled_mutations_happen_once_and_actions_at_most_once_through_kills",
            "runtime/test_scheduler.py::"
            "test_jobs_survive_a_restart_and_an_action_found_in_progress_is_not_started_again",
        ],
    ),
    22: (
        "Jobs are cancelled before and while they run; what a cancelled action schedules is canceled",
        ["runtime/test_scheduler.py::test_what_a_cancelled_action_schedules_is_canceled_from_the_start"],
    ),
    23: (
        "A mutation that is rolled back leaves no schedule",
        ["runtime/test_scheduler.py::test_a_job_of_a_mutation_that_failed_never_was_and_a_cancelled_one_never_runs"],
    ),
    24: (
        "A cron that overruns skips, and says so",
        [f"{HERE}::test_a_cron_that_overruns_its_slots_skips_them_and_says_so"],
    ),
    25: (
        "Clock and chance are frozen and seeded; variables invalidate, time passing does not",
        [
            "runtime/test_sandbox.py::test_clocks_and_chance_of_libraries_follow_the_call",
            "runtime/test_sandbox.py::test_the_same_seed_gives_the_same_chances",
            "runtime/test_variables.py::test_a_query_depends_on_the_variables_it_asked_for_and_on_no_other",
            f"{HERE}::test_time_that_passes_runs_no_query_again",
        ],
    ),
    26: (
        "The same query runs once for all who ask; one that asks who calls is not shared",
        [
            "unit/reactivity/test_query_cache.py::test_a_thousand_callers_at_once_cost_one_run",
            "unit/reactivity/test_query_cache.py::test_a_result_that_does_not_depend_on_the_caller_is_shared_by_all",
            "unit/reactivity/test_query_cache.py::test_a_result_that_depends_on_the_caller_is_not_shared",
        ],
    ),
    27: (
        "Limits; by the design each is a knob, those of reads raised",
        [
            "transaction/test_txn_access.py::test_limits_name_themselves",
            f"{HERE}::test_one_more_than_a_limit_is_refused_and_the_limit_is_not",
            f"{HERE}::test_a_call_schedules_no_more_than_its_limit",
        ],
    ),
    28: (
        "Internal functions are invisible; the data of application errors survive; bugs are redacted",
        [
            "interop/test_published_clients.py::test_internal_and_missing_functions_look_alike",
            "interop/test_published_clients.py::test_errors_arrive_as_convex_gives_them",
            "server/test_doors.py::test_strangers_see_neither_tracebacks_nor_logs",
            "server/test_what_strangers_see.py::test_what_is_internal_is_as_if_it_were_not_there",
            "server/test_what_strangers_see.py::test_the_data_of_a_refusal_arrives",
            "server/test_what_strangers_see.py::test_a_bug_tells_nothing_but_its_number",
        ],
    ),
    29: ("Text search: not in the design", []),
    30: ("Vector search: not in the design", []),
    31: (
        "Export and import keep ids, creation times, references; replacing is atomic to subscribers",
        [
            "client/test_archive.py::test_every_kind_of_value_comes_back_with_its_id_and_its_creation_time",
            "client/test_archive.py::test_references_between_tables_hold_after_a_zip_came_back",
            "transaction/test_txn_importing.py::test_references_of_a_later_import_follow_what_was_renumbered_before",
            "client/test_archive.py::test_a_live_query_goes_from_all_old_to_all_new",
        ],
    ),
    32: ("Creating a table disturbs nobody else", [f"{SCRIPTS}/new_tables.txt"]),
    33: (
        "64 clients on one document see no conflict (its throughput: tests/bench/transfers.py)",
        ["runtime/test_pool.py::test_contended_mutations_never_show_a_conflict_and_none_is_lost"],
    ),
}


def test_the_checklist_has_every_item_in_order() -> None:
    assert list(CHECKLIST) == list(range(1, 34))
    unshown = [item for item, (_, shown_by) in CHECKLIST.items() if not shown_by]
    assert unshown == [29, 30]


@pytest.mark.parametrize("item", CHECKLIST, ids=lambda item: f"{item}. {CHECKLIST[item][0]}")
def test_what_shows_an_item_is_there(item: int) -> None:
    for name in CHECKLIST[item][1]:
        file, _, test = name.partition("::")
        text = (TESTS / file).read_text()
        assert not test or re.search(rf"^ *(async )?def {test}\(", text, re.MULTILINE), name


# ── what is shown nowhere else ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with Engine.memory() if request.param == "memory" else Engine.open(tmp_path / "store.db") as engine:
        yield engine


@pytest.fixture
def store() -> Iterator[StoreUnderTest]:
    with StoreUnderTest() as made:
        yield made


def test_a_look_for_an_id_that_is_not_there_is_touched_by_its_coming(engine: Engine) -> None:
    id = engine.run(lambda tx: tx.insert("notes", {"n": 1}))[0]
    engine.run(lambda tx: tx.delete(id))
    with engine.begin() as tx:
        assert tx.get(id) is None
        reads, ts = tx.reads, tx.begin_ts
    engine.run(lambda tx: tx.insert("notes", {"n": 2}))
    assert engine.write_log.first_hit(reads, ts) is None, "another id came"
    engine.run(lambda tx: tx.insert("notes", {"n": 1}, id=id))  # as an import brings it back
    assert engine.write_log.first_hit(reads, ts) is not None


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("moment", ["check", "backfill"])
def test_a_write_during_a_deploy_stays_and_only_what_stays_wrong_refuses_it(
    engine: Engine, moment: str, mended: bool
) -> None:
    ids = engine.run(lambda tx: [tx.insert("notes", {"n": n}) for n in range(600)])[0]
    fields = {"n": {"type": {"type": "int"}, "optional": False}}
    steps = engine.apply_definitions(
        [TableDefinition("notes", {"type": "object", "fields": fields}, {"by_n": IndexDefinition(("n",))})]
    )
    while next(steps)["step"] != moment:
        pass
    engine.run(lambda tx: tx.patch(ids[0], {"n": "wrong"}))  # fits the schema there is: none
    if mended:
        engine.run(lambda tx: tx.patch(ids[0], {"n": 0}))
        assert list(steps)[-1]["step"] in ("check", "backfill")
        with pytest.raises(ValidationError, match="expected int"):
            engine.run(lambda tx: tx.patch(ids[0], {"n": "wrong"}))
        return
    with pytest.raises(ValidationError, match="nothing was changed") as refused:
        list(steps)
    assert ids[0] in str(refused.value)
    with engine.begin() as tx:
        assert tx.get(ids[0])["n"] == "wrong"  # type: ignore[index]
    assert engine.catalog.table("notes").schema is None  # type: ignore[union-attr]


def test_a_repeated_request_is_known_after_a_restart_and_one_that_was_refused_is_not(tmp_path: Path) -> None:
    def ask(engine: Engine, number: int, result: bytes) -> Any:
        with engine.begin() as tx:
            list(tx.scan("notes"))
            tx.insert("notes", {"n": number})
            requests = [tx.freeze("", request=("session", number), result=result)]
        if number == 2 and result == b"1":
            engine.run(lambda tx: tx.insert("notes", {"n": 0}))  # comes between: the request is refused
        return engine.commit(requests)[0]

    with Engine.open(tmp_path / "store.db") as engine:
        assert type(ask(engine, 1, b"1")) is Committed
        assert type(ask(engine, 2, b"1")) is ConflictError
    with Engine.open(tmp_path / "store.db") as engine:
        repeated = ask(engine, 1, b"2")
        assert (type(repeated), repeated.result) == (Replayed, b"1")
        assert type(ask(engine, 2, b"2")) is Committed
        assert [row["n"] for row in everything(engine)] == [1, 0, 2]


def everything(engine: Engine) -> list[Any]:
    with engine.begin() as tx:
        return [row for _, row in tx.scan("notes")]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda tx, ids: tx.insert("notes", {"n": 1.5}), [[0, 1, 1.5, 2], [3, 4, 5]]),
        (lambda tx, ids: tx.delete(ids[1]), [[0, 2], [3, 4, 5]]),
        (lambda tx, ids: tx.delete(ids[2]), [[0, 1], [3, 4, 5]]),  # the one the edge is at
        (lambda tx, ids: tx.patch(ids[1], {"n": 4.5}), [[0, 2], [3, 4, 4.5, 5]]),
        (lambda tx, ids: tx.patch(ids[4], {"n": 0.5}), [[0, 0.5, 1, 2], [3, 5]]),
        (lambda tx, ids: tx.insert("notes", {"n": 9}), [[0, 1, 2], [3, 4, 5]]),  # behind the last page
    ],
)
def test_two_pages_stay_whole_whatever_crosses_their_edge(engine: Engine, change: Any, shown: list[Any]) -> None:
    engine.define(TableDefinition("notes", {"type": "any"}, {"by_n": IndexDefinition(("n",))}))
    ids = engine.run(lambda tx: [tx.insert("notes", {"n": n}) for n in range(7)])[0]
    journals: list[str | None] = [None, None]

    def pages() -> list[list[float]]:
        cursor, found = None, []
        for place in range(2):
            with engine.begin() as tx:
                tx.journal = journals[place]
                page = DatabaseReader(tx).query("notes").with_index("by_n").paginate(num_items=3, cursor=cursor)
                cursor, journals[place] = page["continueCursor"], tx.next_journal
            found.append([row["n"] for row in page["page"]])
        return found

    assert pages() == [[0, 1, 2], [3, 4, 5]]
    engine.run(lambda tx: change(tx, ids))
    assert pages() == shown


@pytest.mark.parametrize(
    ("knob", "work"),
    [
        ("read_intervals_max", lambda tx, ids, count: [DatabaseReader(tx).get(id) for id in ids[:count]]),
        ("write_documents_max", lambda tx, ids, count: [tx.insert("t", {}) for _ in range(count)]),
    ],
)
def test_one_more_than_a_limit_is_refused_and_the_limit_is_not(engine: Engine, knob: str, work: Any) -> None:
    limit = getattr(engine.knobs, knob)
    assert limit == {"read_intervals_max": 4096, "write_documents_max": 16_000}[knob]
    ids = engine.run(lambda tx: [tx.insert("t", {"n": n}) for n in range(4200)])[0]
    with engine.begin() as tx:
        assert len(work(tx, ids, limit)) == limit
    with engine.begin() as tx, pytest.raises(LimitExceeded) as caught:
        work(tx, ids, limit + 1)
    assert (caught.value.knob, caught.value.limit, caught.value.code) == (knob, limit, "LimitExceeded")


@cs.mutation
def note(ctx, n: int) -> None:
    ctx.db.insert("notes", {"n": n})


@cs.mutation
def schedule_many(ctx, count: int) -> None:
    for n in range(count):
        ctx.scheduler.run_after(60, note, n=n)


def test_a_call_schedules_no_more_than_its_limit(store: StoreUnderTest) -> None:
    with pytest.raises(LimitExceeded, match="scheduled_per_call_max"):
        schedule_many(count=1001)
    assert [row for row in store.jobs("pending") if row["name"].endswith(":note")] == []
    schedule_many(count=1000)
    assert len([row for row in store.jobs("pending") if row["name"].endswith(":note")]) == 1000


@cs.query
def notes_from(ctx, least: int) -> list[int]:
    return [row["n"] for row in ctx.db.query("notes") if row["n"] >= least]


def test_when_a_mutation_returns_every_live_query_shows_it(store: StoreUnderTest) -> None:
    with contextlib.ExitStack() as stack:
        lives = [stack.enter_context(store.subscribe(notes_from, least=least)) for least in range(8)]
        for live in lives:
            live.wait(timeout=10)
        for n in range(8):
            store.mutation(note, n=n)
            assert [live.value for live in lives] == [list(range(least, n + 1)) for least in range(8)]


@cs.query
def what_time_it_is(ctx) -> str:
    return f"{ctx.now:%H:%M} {ctx.db.query('notes').count()}"


def test_time_that_passes_runs_no_query_again(store: StoreUnderTest) -> None:
    store.clock.set(dt.datetime(2030, 6, 1, 12, tzinfo=dt.UTC))
    with store.subscribe(what_time_it_is) as live:
        assert live.wait(timeout=10) == "12:00 0"
        store.clock.advance(hours=1)
        store.mutation(note, n=1)
        assert live.until(lambda shown: shown.endswith("1"), timeout=10) == "13:00 1"
        store.clock.advance(hours=1)
        store.insert_df("others", [{"n": 1}])
        assert live.value == "13:00 1", "neither the hour nor a table it did not read"


_slow: list[StoreUnderTest] = []


@cs.every(hours=1)
@cs.action
def slow_tick(ctx) -> None:
    if _slow:
        store = _slow.pop()
        store.clock._clock.move(round(2.5 * 3600 * 1e9))  # the run takes that long


def test_a_cron_that_overruns_its_slots_skips_them_and_says_so(store: StoreUnderTest) -> None:
    note(n=1)
    _slow.append(store)
    began = store.clock.now
    store.clock.advance(hours=1)
    assert store.clock.now - began > dt.timedelta(hours=3)
    (run,) = [row for row in store.jobs("success") if row["name"].endswith(":slow_tick")]
    assert run["missed"] == 2
    said = [line for record in store.logs() for line in record["lines"]]
    assert any("2 runs of test_conformance:slow_tick" in line and "skipped" in line for line in said)
    store.clock.advance(hours=1)
    assert len([row for row in store.jobs("success") if row["name"].endswith(":slow_tick")]) == 2
