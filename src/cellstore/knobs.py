"""Every limit in one place: unit in the name, default, and why it exists.

A deployment takes a `Knobs`; tests build one with small numbers. Nothing else in the code base is a limit.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The tunable limits of a deployment."""

    # Documents and values (semantics as in Convex; sizes by its accounting rule)
    document_size_bytes: int = 1 << 20  # one document; larger things belong into files
    document_fields_max: int = 1024
    document_depth_max: int = 16  # keeps recursion in codecs and validators shallow
    array_length_max: int = 8192
    value_depth_max: int = 64  # arguments and results; it may be lowered
    arguments_size_bytes: int = 16 << 20
    result_size_bytes: int = 64 << 20  # raised over Convex's 16 MiB: results become dataframes here

    # One function run
    read_rows_max: int = 1_000_000  # raised over Convex's 32,000 for analysis work
    read_size_bytes: int = 512 << 20
    read_intervals_max: int = 4096  # every interval is checked at commit and kept by live queries
    write_documents_max: int = 16_000
    write_size_bytes: int = 64 << 20
    call_depth_max: int = 8
    query_time_s: float = 1.0  # own computation; longer work is an action
    mutation_time_s: float = 1.0
    action_time_s: float = 600.0
    memory_bytes: int = 4 << 30  # address space of one worker
    log_lines_max: int = 256
    log_line_chars: int = 32_768
    log_records_kept: int = 5000  # of the log stream, in memory
    log_file_bytes: int = 4 << 20  # of the log stream, beside the store; twice that is kept

    # Imports
    import_changes_max: int = 200_000  # documents one atomic replace under the same ids may change: they are one commit

    # The committer
    write_log_s: float = 300.0  # how far back a transaction may have begun
    write_log_keys_max: int = 1_000_000  # bound on its memory
    commit_retries_max: int = 3  # optimistic attempts of a slow mutation before it is re-run inside the lane
    lane_budget_s: float = 0.02  # a mutation that runs longer loses the lane to a successor

    # Retention
    retention_s: float = 86_400.0  # how far back snapshots stay readable
    request_retention_s: float = 14 * 86_400.0  # how long a client that was away may ask again for what it missed
    requests_kept_max: int = 2000  # per session beyond retention_s: no client has more than its queue to ask again for
    trim_slice_s: float = 0.002  # how long trimming holds up a writer at a time
    trim_pause_s: float = 30.0  # between two looks for history to give up; at most a tenth of retention_s

    # Workers
    workers_min: int = 2  # the lane and one beside it, which is also the lane's successor
    workers_max: int = 4  # processes per Python environment
    lane_pipeline_max: int = 64  # mutations sent ahead to the lane; they are sent again when one is refused
    worker_pipeline_max: int = 32  # queries sent ahead to one worker
    queued_calls_max: int = 10_000  # waiting for a worker, per Python environment; beyond it callers hear Overloaded
    actions_running_max: int = 1000  # per Python environment
    worker_idle_bytes: int = 10_000_000  # of its own; a larger one that idles gives way to a fresh one
    action_processes_max: int = 8  # per Python environment; that many actions at once have a process each, more share
    workers_are_forked: bool = True  # from a parent that has all loaded, where that is safe; else each starts by itself
    worker_deaths_max: int = 3  # how often a call is run again because a worker died under another one
    worker_start_s: float = 60.0  # importing pandas on a cold disk takes a while

    # HTTP actions
    http_body_bytes: int = 20 << 20  # of a request taken whole, and of a response; as in Convex
    http_stream_bytes: int = 1 << 30  # of a request whose function reads it piece by piece

    # Scheduler
    scheduled_per_call_max: int = 1000
    jobs_running_max: int = 8  # due jobs beyond it wait, so that a backlog does not hurt live queries

    # Files
    file_size_bytes: int = 64 << 30  # one upload; it lies on the disk beside the store

    # Environment variables of functions
    variables_max: int = 1000
    variable_name_chars: int = 40
    variable_value_bytes: int = 8192

    # Connections
    frame_size_bytes: int = 64 << 20  # one message of a socket; one body over HTTP of who is no owner
    connections_max: int = 10_000  # per deployment; more are told to come back later
    frames_per_s_max: int = 50_000  # per connection; a client that talks faster than it can be listened to is cut off
    unsent_transitions_max: int = 2  # a slow reader skips states beyond this
    queued_mutations_max: int = 1000  # per connection
    running_actions_max: int = 1000  # per connection
    live_queries_max: int = 100_000  # per connection
    unsent_bytes_max: int = 128 << 20  # per connection; a client that reads nothing is cut off beyond this
    query_cache_bytes: int = 64 << 20  # results nobody watches, kept while they are valid
    parted_results_bytes: int = 64 << 20  # what clients held that are gone: who comes back is told the difference
    ping_interval_s: float = 15.0
    repeats_wait_s: float = 0.1  # for calls that Convex's client in Rust says again when it comes back

    # Analytics
    analytics_memory_bytes: int = 2 << 30  # DuckDB's own; what does not fit is spilled to the scratch directory
    analytics_result_bytes: int = 1 << 30  # one dataframe as Parquet; it passes through the server's memory
    analytics_time_s: float = 600.0  # one statement, loading its tables included
    analytics_threads: int = 4  # statements that run side by side

    # Shipping functions from cells
    capture_size_bytes: int = 1 << 20  # a captured value above this is data, and data belongs into a table


DEFAULTS = Knobs()
