"""What crosses the wire: Convex's sync protocol as plain data, known to both sides.

    messages.py    client messages parsed strictly, server messages built
    version.py     where a client stands: query set, identity, timestamp
    codec.py       bytes to messages and back; timestamps; chunks for large transitions
    delta.py       one list after another: what to tell who holds the first
    path.py        the one spelling of a function's path

Our own clients speak the same protocol. Where we add something it is negotiated in `Connect`: `"exact": true` makes
values travel as native JSON (ints and floats distinct) and failures carry a structured `"error"`; with `"deltas": true`
beside it a list that changed a little travels as a patch of the list before.
"""
