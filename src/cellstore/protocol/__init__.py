"""What crosses the wire: Convex's sync protocol as plain data, known to both sides.

    messages.py    client messages parsed strictly, server messages built
    version.py     where a client stands: query set, identity, timestamp
    codec.py       bytes to messages and back; timestamps; chunks for large transitions
    path.py        the one spelling of a function's path

Our own clients speak the same protocol. Where we add something it is negotiated in `Connect`: `"exact": true` makes
values travel as native JSON (ints and floats distinct) and failures carry a structured `"error"`.
"""
