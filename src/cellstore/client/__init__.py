"""Beyond the wire: how a process that does not own the store talks to it.

    query_set    what we asked for                                       ┐
    results      what the server said; refuses a transition out of step  │ pure
    requests     mutations and actions in flight; what to resend         │
    machine      the three above as one machine: event in, effects out   ┘
    wire         frames as this side writes and reads them
    loop         the thread that owns an asyncio loop; waits that Ctrl-C interrupts
    transport    Link: performs the machine's effects; over a WebSocket, with reconnect
    embedded     the same Link onto a deployment inside this process, no socket
    control      one HTTP request, one answer: deploy, bulk data, snapshots, SQL
    frames       Parquet and rows as dataframes; rows  the way back; bulk  `insert_df`
    files        files as documents; archive  `export` and `import_`
    snapshot     the database at one moment
    difference   what is different between two
    discovery    which Jupyter server is ours
    shipping     which functions the store has not seen yet in their present form
    sources      what there is to deploy; watching  files deployed again when they change
    recording    which queries a block of code asks, for `@cs.view`
    optimism     guessed effects of mutations under way
    pending      a mutation that was called and not waited for
    subscription what `subscribe` and `together` return
    pages        a paginated query from one page to the last
    database     `Database`, what a user holds
    awaiting     the same for code that awaits
    connect      `connect`, `open`, and the current database
    errors_render  errors as the caller meets them: typed, with the user's own lines
    progress, logs, listing   bars, the log stream, and lists that read as tables, where the user is looking

User code calls in from any thread and blocks there; everything that touches a socket or a machine happens on one
loop thread. The client never imports the server; `embedded` does, inside the function that starts one.
"""
