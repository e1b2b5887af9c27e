"""Serializable transactions over a storage, optimistic, without locks a user could see.

    begin ──▶ read (the read set grows) ──▶ write (held back) ──▶ freeze ──▶ one CommitRequest
                                                                                   │
              the committer: validate ▸ assign a timestamp ▸ persist the group ▸ publish, in order

Two halves that meet in one message. The reading half runs anywhere, also in worker processes, and needs a storage reader
only: `catalog`, `read_set`, `write_set`, `scan`, `overlay`, `transaction`, `access` (what users call `ctx.db`) and
`worker_store`. The committing half runs once per store: `write_log`, `committer`, `backfill` and the façade `database`.
The reading half never imports the committing half.

Reads are recorded as intervals of index keys, for what was found and what was not; a commit is refused when another
commit since its beginning wrote a key inside one of them. That alone gives serializability: a transaction is equivalent
to one that ran in an instant at its commit timestamp. The same intervals tell which live queries a commit concerns.

The lane is one worker that runs short mutations one after another on the newest validated state, durable or not, so that
contention costs no conflicts: see `overlay`.
"""
