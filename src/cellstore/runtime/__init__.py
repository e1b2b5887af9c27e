"""User functions, in worker processes.

The host never runs user code on its event loop. A `Runner` takes a function's path and arguments and answers with an
`Outcome`; behind it either worker processes read the store by themselves (`PoolRunner`) or a thread of this very
process does (`InlineRunner`, for embedded use). Both run the same code for one call (`execute`), so a function behaves
the same in both.

    runner.py     the Runner contract              outcome.py    what one call came to
    registry.py   deployed functions, by path      calls.py      host ⇄ worker frames
    execute.py    one call, from begin to freeze   context.py    ctx as a function sees it
    sandbox.py    frozen clock, seeded chance      capture.py    print, logging, warnings become log lines
    native.py     libraries that reach out past it        log_stream.py       what functions said of late
    leaks.py      what a call must leave behind as it was
    settings.py   settings of libraries, which last as long as the call; patches.py: what else is assigned to in them
    worker.py     the process of queries and mutations           action_worker.py    the process of actions
    nursery.py    their parent, which has all loaded             spawning.py         how the host comes by processes
    team.py       who runs what, and the lane      actions.py    the host's side of actions and HTTP actions
    process.py    a process as the host sees it    pending.py    a call that is not answered yet
    pool.py, inline.py   the two runners; serving.py             what they do alike
    deploying.py  how a unit becomes current       loaded.py     functions ready to be called
    scheduler.py  jobs and crons                   jobs.py       their rows
    instant.py    coroutines that never wait       watchdog.py   the end of an endless call, inline
    traces.py     the user's own lines             log_file.py   the log stream's tail on disk
    files.py      `ctx.storage`                    variables.py  `ctx.env`

Only the host writes: a worker hands back one commit request and the host's committer gives it a place in history.
"""
