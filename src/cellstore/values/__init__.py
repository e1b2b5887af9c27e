"""What may be stored: values, their one order, their text forms, the bytes they sort by.

    value       the union of plain Python types, checked and measured
    ids         document ids, and `Id`, the string that knows its table
    json        native JSON: exact, what is stored and what our own parts exchange
    convex      Convex's JSON: what foreign clients speak, and the clean lossy form for people
    order       the total order over all values
    index_key   bytes that sort as the values do
    interval    sets of half-open intervals over those bytes
    document    what users get back

Values are never wrapped: a stored int is a Python `int`. Numbers order and compare as in Python, so 1 and 1.0 are one
index key; they remain two *stored* values, and each comes back as the type it went in as.
"""
