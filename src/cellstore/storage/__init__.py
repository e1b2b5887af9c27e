"""Revisions on disk: one append-only document log is the truth, index entries point into it.

    contract    what every storage promises, spelt out; the shapes that cross the wall
    sql         the tables of a store file, and every statement over them
    plan        which rows a group of commits writes: pure
    counts      how many entries lie between two keys, without walking them
    trim        giving up history, a slice at a time
    sqlite      one writing connection, any number of readers in any process; WAL, synchronous=FULL
    checkpoint  copies the log back into the file, beside the writer
    room        makes the log file longer ahead of the writer, so that no commit waits for that
    lease       one process owns a store; a second is told who
    memory      the shortest storage that keeps every promise
    check       walks everything and yields each broken invariant

A storage knows tables and indexes as numbers, documents as sixteen bytes, keys and bodies as bytes. It does not look
inside any of them; what they mean is the transaction layer's.
"""
