"""Serializable transactions over a storage, optimistic, without locks a user could see.

    begin ──▶ read (the read set grows) ──▶ write (held back) ──▶ freeze ──▶ one CommitRequest
                                                                                   │
              the committer: validate ▸ assign a timestamp ▸ persist the group ▸ publish, in order

Two halves that meet in one message, a `CommitRequest` (`requests`). The reading half runs anywhere, also in worker
processes, and needs a storage reader only; it never imports the committing half, which runs once per store.

    reading       one moment, every look recorded          transaction   writes held back, and the request they become
    snapshot      storage view under the lane's overlay    overlay       what the lane has written and may build on
    read_set      what was looked at                       write_set     what is to be written
    scan, ranges  walking an index, and what was asked     pages         pieces of a query with edges that stay
    catalog       tables and indexes of a moment           rules         what a table's documents must be
    access        `ctx.db` as users see it                 upsert        by a unique index
    worker_store  how a transaction begins                 files         bytes beside the store

    committer     one order for all writes                 write_log     recent commits: did anybody write what I read?
    database      the façade                               retention     giving up history in the background
    backfill      definitions brought in behind traffic    importing     documents that come back with their ids
    bulk, packed  many documents in one commit             hidden        tables replaced or dropped, on their way out
    soundness     what must hold of definitions, claims    references    what ids in imported documents mean here
    pace          how much at a time nobody waits for      window        where readable history begins

Reads are recorded as intervals of index keys, for what was found and what was not; a commit is refused when another
commit since its beginning wrote a key inside one of them. That alone gives serializability: a transaction is equivalent
to one that ran in an instant at its commit timestamp. The same intervals tell which live queries a commit concerns.

The lane is one worker that runs short mutations one after another on the newest validated state, durable or not, so that
contention costs no conflicts: see `overlay`.
"""
