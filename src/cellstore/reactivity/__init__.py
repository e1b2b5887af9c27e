"""Who must be told: live queries, kept exact by following the write log.

    principal.py      who is on the other end of a connection, and what they may do
    interval_map.py   which subscribers cover this key
    subscriptions.py  follows the committer; finds the read sets a commit touched
    query_cache.py    one run per query and moment, its result shared by all, valid in [ts, invalidated_ts)
    parted.py         what clients held that are gone, for when they come back
    session.py        one connection as a pure machine: event in, effects out
    connection.py     performs a session's effects: runs functions, follows queries, sends frames

A commit wakes the queries whose read sets its index keys touch, and nobody else. Every client moves from one
timestamp to the next with all its queries together; equal results send nothing.
"""
