"""User functions, in worker processes.

The host never runs user code on its event loop. A `Runner` takes a function's path and arguments and answers with an
`Outcome`; behind it either worker processes read the store by themselves (`PoolRunner`) or a thread of this very
process does (`InlineRunner`, for embedded use). Both run the same code for one call (`execute`), so a function behaves
the same in both.

    runner.py     the Runner contract              outcome.py    what one call came to
    registry.py   deployed functions, by path      calls.py      host ⇄ worker frames
    execute.py    one call, from begin to freeze   context.py    ctx as a function sees it
    sandbox.py    frozen clock, seeded chance      capture.py    print, logging, warnings become log lines
    worker.py     the process of queries and mutations           action_worker.py    the process of actions
    pool.py       processes: start, send, death    lane.py       one worker at a time runs short mutations
    pool_runner.py, inline.py                      the two runners
    scheduler.py  jobs and crons

Only the host writes: a worker hands back one commit request and the host's committer gives it a place in history.
"""
