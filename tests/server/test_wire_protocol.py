"""Convex's wire, trap by trap: what official clients trip over, and the tests that show that ours does not make them.

`TRAPS` goes through the reference section by section. Most are shown where the thing lives, and are named here as
`directory/file::test` or as a golden dialogue; those that were shown nowhere else are below.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from served_harness import Served
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from cellstore.knobs import DEFAULTS
from cellstore.protocol import messages as wire

TESTS = Path(__file__).parents[1]
SOCKET, DOORS, HTTP, SHOWN = (
    "server/test_socket.py",
    "server/test_doors.py",
    "server/test_http_api.py",
    "server/test_traps.py",
)
HERE, TOOLS, CLI = "server/test_wire_protocol.py", "server/test_convex_tools.py", "interop/test_convex_cli.py"
PUBLISHED, SAID, PLAYS = (
    "interop/test_published_clients.py",
    "unit/protocol/test_messages.py",
    "unit/reactivity/dialogues",
)
LINK, PAGES = "unit/reactivity/test_connection.py", "transaction/test_txn_pages.py"
FILES, HOOKS = "server/test_files.py", "server/test_http_actions.py"
JSON = "unit/values/test_values_json.py"

TRAPS: dict[str, list[str]] = {
    "1.1 npm and PyPI's HTTP client keep a prefix of the URL, PyPI's socket drops it": [
        f"{SOCKET}::test_every_address_clients_derive_is_served",
        f"{HTTP}::test_the_api_answers_under_the_prefix_and_at_the_root",
        f"{PUBLISHED}::test_subscribe_mutate_and_see_it",
        f"{PUBLISHED}::test_the_http_client",
    ],
    "1.1 the command line asks at the origin, whatever the path of its URL": [
        f"{CLI}::test_a_url_with_our_prefix_serves_as_well",
        f"{CLI}::test_logs",
    ],
    "1.1 a slash at the end makes two, a query stays where it was": [
        f"{SOCKET}::test_every_address_clients_derive_is_served",
        f"{SHOWN}::test_no_subprotocol_is_agreed_and_a_query_in_the_url_does_no_harm",
    ],
    "1.2 a version nobody knows, or none, is served": [f"{SHOWN}::test_an_unknown_client_and_version_are_served"],
    "1.2 old clients name no format": [f"{SHOWN}::test_old_clients_mean_convexs_encoding_when_they_name_none"],
    "1.2 an admin key may carry whom to act as": [f"{DOORS}::test_each_credential_has_its_identity"],
    "1.2 a socket brings its credentials in its messages": [
        f"{DOORS}::test_a_socket_without_credentials_is_told_so_until_it_authenticates"
    ],
    "1.2 no subprotocol; compression may be offered": [
        f"{SHOWN}::test_no_subprotocol_is_agreed_and_a_query_in_the_url_does_no_harm",
        f"{HERE}::test_a_client_that_offers_compression_is_served_without",
    ],
    "1.3 a preflight on every route, CORS on errors too": [
        "server/test_cors.py::test_every_route_may_be_called_from_configured_origins_and_from_no_other",
        "server/test_cors.py::test_answers_and_errors_of_every_route_may_be_read_by_configured_origins_only",
        "interop/test_react_page.py::test_the_http_client_in_a_page_of_a_configured_origin",
    ],
    "1.3 sockets know no CORS: cookies count from the same origin only": [
        f"{DOORS}::test_a_socket_with_a_cookie_opens_from_the_same_origin_only",
        f"{DOORS}::test_a_socket_with_a_token_opens_from_anywhere",
    ],
    "2 everything is sent before anything was answered": [f"{HERE}::test_a_client_says_everything_at_once"],
    "2 unknown types and fields are let pass, garbage closes": [
        f"{PLAYS}/unknown_types_are_ignored.txt",
        f"{SAID}::test_unknown_fields_and_types_are_let_pass",
        f"{SOCKET}::test_a_malformed_frame_closes_with_a_reason_and_harms_nobody",
    ],
    "3 Connect in the words of each client": [f"{HERE}::test_each_client_introduces_itself_in_its_own_way"],
    "3 Connect may never come": [
        f"{PLAYS}/missing_connect.txt",
        "interop/test_npm_auth.py::test_it_signs_in_renews_is_refused_and_signs_out",
    ],
    "3 whom to act as has two spellings": [f"{SAID}::test_acting_as_is_another_spelling_of_impersonating"],
    "3 versions of identity and query set must fit, also of tokens not yet known": [
        f"{PLAYS}/authentication_out_of_step.txt",
        f"{PLAYS}/query_set_out_of_step.txt",
        f"{PLAYS}/a_token_while_a_step_is_under_way.txt",
    ],
    "3 an empty query set is acknowledged; Rust may send none before a mutation": [
        f"{PLAYS}/empty_query_set_is_acknowledged.txt",
        f"{PLAYS}/mutation_without_queries.txt",
    ],
    "3 a component path that is empty is none": [
        f"{PLAYS}/components_do_not_exist_here.txt",
        f"{SHOWN}::test_a_component_is_said_not_to_be_there",
    ],
    "3 a default export comes as its module": [f"{SHOWN}::test_a_default_export_is_called_by_its_module"],
    "3 telemetry": [f"{SHOWN}::test_telemetry_is_taken_and_forgotten"],
    "4 timestamps are little-endian and below 2^63": [
        f"{SAID}::test_timestamps_are_spelt_as_convex_spells_them",
        f"{SHOWN}::test_every_timestamp_is_below_what_rust_can_read",
    ],
    "4 what every modification must have, and clock fields together or not at all": [
        f"{SHOWN}::test_clock_skew_and_server_time_are_left_out_together"
    ],
    "4 error data is there only if the function gave some, null too": [
        f"{SAID}::test_error_data_is_present_only_when_the_function_gave_some",
        f"{PUBLISHED}::test_errors_arrive_as_convex_gives_them",
    ],
    "4 parts of a transition: for npm from 1.28 only": [
        f"{SOCKET}::test_a_large_transition_comes_in_parts_each_client_can_take",
        f"{SAID}::test_chunks_put_together_are_the_text",
    ],
    "4 no type of message but those clients know": [
        f"{HERE}::test_an_official_client_hears_nothing_it_does_not_know",
        "unit/reactivity/test_session_deltas.py::test_who_did_not_ask_gets_the_whole_list",
    ],
    "4 a fatal error kills npm's client": [f"{SHOWN}::test_no_client_is_ever_told_of_a_fatal_error"],
    "4 log lines have a shape": [f"{SHOWN}::test_log_lines_have_the_shape_npms_client_takes_apart"],
    "5 each transition starts where the last one ended, and shows one moment": [
        "property/test_session_machine.py",
        f"{LINK}::test_no_client_ever_holds_what_no_moment_held",
        "server/test_fuzz.py::test_no_frames_break_the_socket_or_leave_anything_behind",
    ],
    "5 equal results are not sent again": [
        f"{PLAYS}/subscribe_and_update.txt",
        f"{LINK}::test_a_result_that_came_out_as_before_is_not_sent_again",
    ],
    "5 a query removed, before it ran too, is acknowledged": [
        f"{PLAYS}/added_and_removed_before_it_ran.txt",
        f"{PLAYS}/removed_while_it_ran.txt",
    ],
    "5 every version is reached, with nothing to say too": [
        f"{PLAYS}/authentication.txt",
        f"{PLAYS}/empty_query_set_is_acknowledged.txt",
    ],
    "5 every answer is followed by a transition": [
        f"{PLAYS}/actions_and_their_transitions.txt",
        f"{PLAYS}/nobody_may_do_nothing.txt",
        f"{LINK}::test_a_mutation_that_touches_no_query_is_still_followed_by_a_transition",
    ],
    "5 no transition without need": [f"{LINK}::test_a_commit_elsewhere_sends_nothing"],
    "5 a failed query is no fatal error, and revives": [
        f"{PLAYS}/a_query_fails_and_recovers.txt",
        f"{SOCKET}::test_redeploying_a_function_reruns_its_live_queries",
    ],
    "6 the answer comes before what it shows": [
        f"{PLAYS}/mutation_before_its_transition.txt",
        f"{PUBLISHED}::test_a_promise_resolves_when_its_effects_are_shown",
    ],
    "6 a client may have seen more than we have; not in the far future": [
        f"{SHOWN}::test_a_client_that_has_seen_more_than_the_store_is_never_answered_from_before",
        f"{SHOWN}::test_the_clock_follows_clients_within_reason_and_never_strangers",
    ],
    "6 mutations in order, actions beside them": [
        f"{PLAYS}/mutations_run_in_order.txt",
        f"{PLAYS}/actions_run_at_once.txt",
        f"{PUBLISHED}::test_mutations_keep_their_order",
    ],
    "6 a mutation that waits runs as who sent it": [f"{PLAYS}/a_mutation_that_waits_runs_as_who_sent_it.txt"],
    "6 too many at once close with a reason": [f"{PLAYS}/too_many_mutations.txt", f"{PLAYS}/actions_run_at_once.txt"],
    "7 a client comes back with journals, a token and what it does not know to have happened": [
        f"{PLAYS}/reconnect_with_resume.txt",
        "interop/test_chaos.py::test_the_npm_client_on_such_a_network",
    ],
    "7 a request repeated runs once; a failed one again; beside the first, with its answer": [
        f"{SOCKET}::test_a_repeated_request_of_a_session_runs_once",
        f"{SHOWN}::test_a_request_that_failed_is_run_again_when_it_is_repeated",
        f"{SHOWN}::test_a_repeat_that_meets_the_first_still_running_gets_its_answer",
        "transaction/test_txn_committer.py::test_a_repeated_request_is_answered_and_not_done_again",
    ],
    "7 a mutation outlives its socket": [f"{SHOWN}::test_a_mutation_goes_on_when_its_socket_is_gone"],
    "7 Rust has no sessions: what was answered has happened, what was not may happen again": [
        "interop/test_chaos.py::test_the_pypi_clients_on_such_a_network"
    ],
    "7 Rust drops a connection that answers what a transition has ended": [
        f"{PLAYS}/rust_client_comes_back.txt",
        f"{PLAYS}/rust_client_comes_back_with_nothing_to_say.txt",
        "interop/test_chaos.py::test_the_pypi_clients_on_such_a_network",
    ],
    "8.1 a quiet server must be heard of": [
        f"{HERE}::test_a_quiet_socket_hears_of_us_before_any_client_gives_up",
        f"{PLAYS}/ping_only_when_quiet.txt",
        "server/test_framing.py::test_whoever_is_not_heard_of_for_two_pings_is_cut_off_and_who_answers_is_not",
    ],
    "8.3 a reason fits into its frame, and stopping tells clients to come back": [
        f"{SHOWN}::test_a_reason_for_closing_fits_into_a_frame",
        f"{SOCKET}::test_stopping_the_server_closes_sockets_so_that_clients_come_back",
    ],
    "8.4 no frame above 16 MiB to Rust; arguments up to 16 MiB from everybody": [
        f"{PUBLISHED}::test_values",
        f"{SOCKET}::test_fragments_put_together_are_the_message",
        f"{SHOWN}::test_arguments_as_large_as_clients_may_send_are_taken",
    ],
    "8.4 two transitions wait at most, then states are skipped": [
        f"{PLAYS}/unsent_transitions_are_bounded.txt",
        f"{PLAYS}/a_slow_reader_skips_states.txt",
    ],
    "9.1 marked values, and marks only where they are needed": [
        f"{JSON}::test_convex_json_has_the_reference_vectors",
        f"{JSON}::test_broken_convex_json_is_refused",
        f"{PUBLISHED}::test_every_kind_of_value_comes_back",
    ],
    "9.1 a name npm's client cannot read never leaves": [
        f"{HERE}::test_names_no_client_can_read_are_the_functions_error"
    ],
    "9.1 PyPI's HTTP client reads no integer tokens": [
        f"{HTTP}::test_numbers_are_written_as_floats_for_clients_that_refuse_integers"
    ],
    "9.2 the clean format": [
        f"{JSON}::test_the_clean_form_is_for_people",
        f"{HTTP}::test_the_clean_format_is_the_default",
    ],
    "9.3 one order of all values (numbers by design.md)": [
        "property/test_key_order.py::test_kinds_sort_in_the_documented_order"
    ],
    "9.4 ids": [
        "unit/values/test_ids.py::test_the_reference_agrees",
        "unit/values/test_ids.py::test_what_is_no_id_is_refused_and_named",
    ],
    "10 paths have several spellings": [
        f"{SAID}::test_paths_have_one_spelling",
        f"{SHOWN}::test_no_subprotocol_is_agreed_and_a_query_in_the_url_does_no_harm",
        f"{HERE}::test_a_module_in_a_directory_is_called_by_its_url",
    ],
    "10 internal functions look as if they were not there": [
        f"{HTTP}::test_a_missing_and_an_internal_function_answer_alike",
        f"{PUBLISHED}::test_internal_and_missing_functions_look_alike",
        f"{DOORS}::test_only_admin_keys_reach_internal_functions",
    ],
    "11 a function that ran answers 200, also of the wrong kind; what never ran does not": [
        f"{HTTP}::test_a_function_that_fails_is_still_200",
        f"{HERE}::test_a_function_of_another_kind_is_an_answer",
        f"{HTTP}::test_a_request_that_cannot_be_understood_is_400_with_a_reason",
    ],
    "11 several queries at one moment, whose timestamp is told without credentials": [
        f"{HTTP}::test_a_consistent_set_of_queries",
        f"{SHOWN}::test_the_time_to_pin_queries_to_is_told_without_credentials",
    ],
    "11 any function by body, URL or GET; arguments as a list or an object": [
        f"{HTTP}::test_any_function_by_path_or_url",
        f"{HTTP}::test_a_query_a_mutation_and_an_action",
    ],
    "11 what comes over HTTP is shown on sockets": [f"{SHOWN}::test_what_comes_over_http_is_shown_on_sockets"],
    "11 probes": [f"{SHOWN}::test_probes_answer_whoever_asks"],
    "12.1 claims have their names, and a refresh is the same person": [
        "server/test_jwt.py::test_claims_have_convexs_names_and_a_refresh_changes_nothing"
    ],
    "12.2 npm's dance of tokens": ["interop/test_npm_auth.py::test_it_signs_in_renews_is_refused_and_signs_out"],
    "12.3 a refused token: its version, then the end of the socket": [
        f"{DOORS}::test_a_wrong_token_in_a_socket_is_an_auth_error_and_the_end",
        "server/test_jwt.py::test_an_accepted_token_that_expires_is_said_and_ends_the_socket",
    ],
    "12.3 over HTTP it is 401 with a code": [
        "server/test_jwt.py::test_a_bad_token_is_refused_with_a_reason",
        f"{PUBLISHED}::test_the_http_client",
    ],
    "12.4 the shapes of an admin key": [
        f"{SHOWN}::test_an_admin_key_may_name_the_kind_of_its_deployment",
        f"{SHOWN}::test_an_admin_key_may_stand_in_the_url",
    ],
    "12.5 which provider judges, by which algorithm and which key": [
        "server/test_issuers.py::test_discovery_finds_the_key_of_a_token",
        "server/test_issuers.py::test_a_token_of_an_algorithm_that_was_not_agreed_is_refused",
        "server/test_issuers.py::test_clocks_may_differ_by_five_seconds",
    ],
    "13.1 strangers are told no more than the request's id": [
        f"{DOORS}::test_strangers_see_neither_tracebacks_nor_logs",
        f"{PLAYS}/strangers_see_no_tracebacks.txt",
    ],
    "13.1 conflicts are ours to try again": [
        "runtime/test_pool.py::test_contended_mutations_never_show_a_conflict_and_none_is_lost"
    ],
    "13.2 strings that clients look for": [
        f"{SHOWN}::test_a_cursor_of_another_query_makes_hooks_begin_again",
        f"{CLI}::test_run",
        f"{SHOWN}::test_who_may_not_is_told_in_the_words_the_command_line_knows",
        f"{TOOLS}::test_strangers_see_none_of_it",
    ],
    "14.1 a full page is not the last, a cursor is a string when done, an end given counts": [
        f"{SHOWN}::test_a_page_of_no_rows_is_refused_and_one_that_is_full_is_not_the_last"
    ],
    "14.1 when a page must be split, and when it is better": [
        f"{PAGES}::test_a_page_ends_where_it_may_read_no_more_rows",
        f"{PAGES}::test_a_page_near_its_limits_is_better_read_as_two",
        f"{PAGES}::test_a_page_beyond_what_a_call_may_read_is_to_be_split_until_it_fits",
    ],
    "14.2 pages keep their edges while documents move; the hook splits them": [
        "property/test_live_pages.py::test_pages_have_no_gaps_and_no_duplicates_while_documents_move",
        "interop/test_react_page.py::test_hooks_follow_page_and_guess",
    ],
    "14.3 journals are kept, returned, taken back, and may be nonsense": [
        f"{PLAYS}/journals_are_kept_and_returned.txt",
        f"{SHOWN}::test_the_journal_of_a_page_keeps_its_edge_over_a_reconnect",
        f"{PAGES}::test_a_journal_nobody_wrote_is_no_journal",
    ],
    "15.1 the address of a file is the permission; digests, ranges": [
        f"{FILES}::test_what_was_uploaded_is_served_to_whoever_knows_where",
        f"{FILES}::test_one_range_may_be_asked_for",
        f"{FILES}::test_a_digest_that_differs_is_refused_and_nothing_is_kept",
        f"{FILES}::test_an_upload_address_is_good_for_an_hour_and_for_its_store",
    ],
    "15.2 which route takes a request; HEAD is a GET; bodies have limits": [
        f"{HOOKS}::test_an_exact_path_goes_before_a_prefix_and_a_longer_prefix_before_a_shorter",
        f"{HOOKS}::test_a_body_comes_in_pieces_and_head_comes_without_one",
        f"{HOOKS}::test_bodies_have_limits_both_ways",
    ],
    "15.3 a snapshot and then every change; no commit is torn": [
        f"{TOOLS}::test_a_snapshot_and_then_every_change_is_the_whole_store",
        f"{TOOLS}::test_large_tables_come_in_pages_without_gaps",
        f"{TOOLS}::test_tables_and_fields_may_be_selected",
        f"{TOOLS}::test_schemas_name_every_field",
    ],
    "15.4 snapshots come back as they were": [
        "client/test_archive.py::test_every_kind_of_value_comes_back_with_its_id_and_its_creation_time"
    ],
    "15.5 exports and imports in steps": [
        f"{CLI}::test_export",
        f"{CLI}::test_an_export_comes_back_as_it_was",
        f"{CLI}::test_import_one_table",
    ],
    "15.6 what is not served is no 404": [f"{TOOLS}::test_what_is_not_served_is_no_404"],
    "15.6 logs are waited for, and a wrong key ends the waiting": [
        f"{TOOLS}::test_logs_are_waited_for",
        f"{CLI}::test_logs_with_a_wrong_key_end_at_once",
    ],
    "15.6 each command": [
        f"{CLI}::test_{name}"
        for name in ("run", "data", "function_spec", "env", "logs", "network_test", "run_watch_follows_the_data")
    ],
}
SECTIONS = (
    "1.1 1.2 1.3 2 3 4 5 6 7 8.1 8.3 8.4 9.1 9.2 9.3 9.4 10 11 12.1 12.2 12.3 12.4 12.5 13.1 13.2 14.1 14.2 14.3 "
    "15.1 15.2 15.3 15.4 15.5 15.6"
)


def test_every_section_with_traps_is_gone_through_in_order() -> None:
    assert list(dict.fromkeys(trap.split()[0] for trap in TRAPS)) == SECTIONS.split()
    assert all(TRAPS.values())


@pytest.mark.parametrize("trap", TRAPS)
def test_what_shows_a_trap_is_there(trap: str) -> None:
    for name in TRAPS[trap]:
        file, _, test = name.partition("::")
        text = (TESTS / file).read_text()
        assert not test or re.search(rf"^ *(async )?def {test}\(", text, re.MULTILINE), name


# ── what is shown nowhere else ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_offers_compression_is_served_without(chat: Served) -> None:
    request = HTTPRequest(chat.url("api/1.48.0/sync").replace("http", "ws", 1), headers=chat.token_header)
    socket = await websocket_connect(request, compression_options={})
    assert "permessage-deflate" not in socket.headers.get("Sec-WebSocket-Extensions", "")
    await socket.write_message('{"type":"ModifyQuerySet","baseVersion":0,"newVersion":1,"modifications":[]}')
    assert json.loads(str(await socket.read_message()))["type"] == "Transition"
    socket.close()


async def test_a_client_says_everything_at_once(chat: Served) -> None:
    plain = await chat.socket()
    send = {"udfPath": "chat:send", "args": [{"author": "a", "body": "b"}]}
    add = {"type": "Add", "queryId": 0, "udfPath": "chat:count", "args": [{}], "journal": None}
    for message in (
        {"type": "Connect", "sessionId": "s", "connectionCount": 0, "lastCloseReason": "InitialConnect"},
        {"type": "Authenticate", "baseVersion": 0, "tokenType": "User", "value": chat.token},
        {"type": "ModifyQuerySet", "baseVersion": 0, "newVersion": 1, "modifications": [add]},
        {"type": "Mutation", "requestId": 0, **send},
        {"type": "Action", "requestId": 1, "udfPath": "chat:act", "args": [{"author": "b"}]},
        {"type": "Mutation", "requestId": 2, **send},
    ):
        plain.socket.write_message(json.dumps(message))
    answered: set[int] = set()
    while len(answered) < 3:
        answer = await plain.until(lambda message: message["type"].endswith("Response"))
        assert answer["success"], answer
        answered.add(answer["requestId"])
    while (await plain.result(0))["value"] != 3.0:
        pass


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ({"connectionCount": 0, "lastCloseReason": "InitialConnect", "clientTs": 1795401452188}, None),
        ({"connectionCount": 3, "lastCloseReason": None, "maxObservedTimestamp": "AABXwH5oFhg="}, 1735689600000000000),
        ({"connectionCount": 1, "lastCloseReason": "WebsocketConnectionError", "clientTs": 0}, None),
        ({}, None),
    ],
    ids=["npm", "npm after a new token", "Rust", "the least"],
)
def test_each_client_introduces_itself_in_its_own_way(said: dict[str, Any], seen: int | None) -> None:
    message = wire.parse({"type": "Connect", "sessionId": "0f0e", **said})
    assert isinstance(message, wire.Connect)
    assert (message.session, message.max_observed_ts, message.exact) == ("0f0e", seen, False)


async def test_an_official_client_hears_nothing_it_does_not_know(chat: Served, tmp_path: Path) -> None:
    """What our own clients are told besides: how far an action is, patches, digests, structured errors."""
    (tmp_path / "far.py").write_text(
        "import cellstore as cs\n@cs.action\nasync def go(ctx):\n    ctx.progress(1, 10, 'begun')\n    return 'done'\n"
    )
    await chat.deploy(tmp_path / "far.py")
    client, heard = await chat.socket(headers=chat.token_header), []
    await client.say("Connect", sessionId="s", deltas=True)
    await client.subscribe(0, "chat:broken_query")
    await client.say("Action", requestId=0, udfPath="far:go", args=[{}])
    while not heard or heard[-1]["type"] != "ActionResponse":
        heard.append(await client.until(lambda _: True))
    changes = [change for message in heard for change in message.get("modifications", [])]
    assert {message["type"] for message in heard} == {"Transition", "ActionResponse"}
    assert [change.keys() for change in changes] == [{"type", "queryId", "errorMessage", "logLines", "journal"}]


class TestQuiet:
    @pytest.fixture
    def extension_config(self) -> dict[str, Any]:
        return {"knobs": {"ping_interval_s": 0.05}}

    async def test_a_quiet_socket_hears_of_us_before_any_client_gives_up(self, chat: Served) -> None:
        client = await chat.socket(headers=chat.token_header)
        for _ in range(2):
            assert await client.until(lambda message: message["type"] == "Ping") == {"type": "Ping"}
        assert 2 * DEFAULTS.ping_interval_s <= 30, "Rust waits half a minute"


async def test_names_no_client_can_read_are_the_functions_error(chat: Served, tmp_path: Path) -> None:
    """npm's would lose the whole message, and end Node's process."""
    (tmp_path / "names.py").write_text(
        "import cellstore as cs\n@cs.query\ndef bad(ctx, name: str): return [{name: 1}]\n"
        "@cs.mutation\ndef refuse(ctx, name: str): raise cs.ApplicationError({name: 1})\n"
    )
    await chat.deploy(tmp_path / "names.py")
    client = await chat.socket(headers=chat.token_header)
    for number, name in enumerate(("größe", "$set", "a\n", "x" * 1025)):
        await client.subscribe(number, "names:bad", {"name": name})
        assert (await client.result(number))["type"] == "QueryFailed"
        answer = await client.call("Mutation", "names:refuse", {"name": name})
        assert (answer["success"], "errorData" in answer) == (False, False)


async def test_a_module_in_a_directory_is_called_by_its_url(chat: Served, tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text("import cellstore as cs\n@cs.query(module='a/b')\ndef f(ctx): return 'deep'\n")
    await chat.deploy(tmp_path / "deep.py")
    for path in ("api/run/a/b/f", "/api/run/a/b/f"):
        assert (await chat.fetch(path, {"args": {}}, chat.token_header)).json["value"] == "deep"


async def test_a_function_of_another_kind_is_an_answer(chat: Served) -> None:
    for kind, path in (("query", "chat:send"), ("mutation", "chat:count"), ("action", "chat:count")):
        answer = await chat.fetch(f"/api/{kind}", {"path": path, "args": {}}, chat.token_header)
        assert (answer.status, answer.json["status"]) == (200, "error")
