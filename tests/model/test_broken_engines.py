"""A test of the tests: break the engine on purpose, one fault at a time, and see the checker object.

The faults are in faults_by_name.py. Each is tried with the workload that is made for it, on as many seeds as it takes;
a fault that nobody notices is a hole in the suite. test_model_kill.py does the same for a lost fsync, in a process that
is really killed; test_model_live.py for live queries.
"""

from __future__ import annotations

import pytest
from faults_by_name import FAULTS

from cellstore.errors import InvariantError
from cellstore.testing.history import Violation
from cellstore.testing.simulation import simulate
from cellstore.testing.workloads import WORKLOADS

NOTICED_BY = {
    "a_miss_by_id_is_not_recorded": "register",
    "an_empty_scan_is_not_recorded": "claims",
    "phantom_ranges_are_ignored": "on_call",
    "the_tail_of_a_scan_is_not_recorded": "on_call",
    "a_descending_scan_is_recorded_as_ascending": "queue",
    "counts_are_not_recorded": "ranges",
    "reads_of_a_rolled_back_savepoint_are_forgotten": "append",
    "a_rollback_keeps_the_writes": "bank",
    "validation_begins_one_too_late": "bank",
    "a_group_is_not_judged_against_itself": "bank",
    "old_keys_do_not_conflict": "on_call",
    "a_group_is_published_in_reverse": "queue",
    "commits_are_acknowledged_before_they_are_stored": "bank",
    "refused_writes_stay_in_the_lane": "queue",
    "followers_of_a_refused_request_are_accepted": "bank",
    "the_lane_claims_to_begin_at_its_view": "append",
    "the_lane_commits_out_of_order": "queue",
    "own_writes_are_not_seen_by_scans": "bank",
    "the_unique_index_looks_without_recording": "claims",
    "the_last_write_of_a_commit_is_lost": "bank",
    "timestamps_follow_the_clock_back": "bank",
}
SEEDS_MAX = 120


def noticed(name: str, workload: str) -> BaseException | None:
    """The first objection to an engine with this fault."""
    for seed in range(SEEDS_MAX):
        with FAULTS[name]():
            try:
                simulate(WORKLOADS[workload], seed, shorten=False)
            except (AssertionError, InvariantError) as objection:  # the checker, or one of the engine's own
                return objection
    return None


def test_every_fault_is_tried() -> None:
    assert set(NOTICED_BY) == set(FAULTS)


@pytest.mark.parametrize(("name", "workload"), NOTICED_BY.items(), ids=NOTICED_BY)
def test_a_broken_engine_is_noticed(name: str, workload: str) -> None:
    assert noticed(name, workload) is not None


def test_a_failure_comes_with_its_seed_and_is_made_small() -> None:
    workload = WORKLOADS["ranges"]
    with FAULTS["counts_are_not_recorded"](), pytest.raises(Violation) as caught:
        _ = [simulate(workload, seed) for seed in range(SEEDS_MAX)]
    told = str(caught.value)
    tasks = told.partition("The shortest list of tasks found, of 40:\n")[2].splitlines()
    assert "(seed " in told
    assert 0 < len(tasks) <= 8
