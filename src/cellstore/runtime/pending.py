"""A call the host has taken on and not answered yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from cellstore.errors import CellstoreError
from cellstore.runtime.calls import Message
from cellstore.runtime.outcome import Identity, Outcome

if TYPE_CHECKING:
    from cellstore.runtime.team import Team, Tenancy


@dataclass(slots=True, eq=False)
class Pending:
    """One call on its way to an outcome, through as many attempts as it takes.

    Invariant  `answer` is set exactly once; an attempt has a number of its own, so what a worker says about an attempt
               that was taken back finds nobody
    """

    kind: str  # query, mutation or bulk
    path: str  # of a bulk: the table
    args: bytes  # native JSON; of a bulk: the rows
    answer: asyncio.Future[Outcome]
    identity: Identity | None = None
    ts: int | None = None
    journal: str | None = None
    request: tuple[str, int] | None = None
    job: str | None = None
    parent: str | None = None  # the job of the action that asks for it
    team: Team | None = None
    number: int = 0  # of the current attempt; 0 while it waits
    attempts: int = 0  # that ended in a conflict
    deaths: int = 0  # of workers, under another call
    tenancy: Tenancy | None = None  # the lane the current attempt runs in
    in_lane: bool = True  # whether the next attempt belongs into the lane
    exclusive: bool = False  # the lane is all its own, however long it takes
    inserted: int = 0  # documents of a bulk that are durable,
    inserted_ts: int = 0  # as of this commit
    stopped: CellstoreError | None = field(default=None, repr=False)  # why it was killed, if it was
    on_outcome: Callable[[Pending, Outcome], None] | None = None  # told before whoever waits

    def message(self, generation: int) -> Message:
        """The current attempt, as it goes to a worker."""
        if self.kind == "bulk":
            return ["bulk", self.number, generation, self.path, self.args.decode()]
        lane_id = "" if self.tenancy is None else self.tenancy.lane_id
        options = [
            b'"$' in self.args, self.identity, self.ts, self.journal, self.request, self.job, self.parent,
            self.exclusive,
        ]  # fmt: skip
        return ["call", self.number, generation, lane_id, self.kind, self.path, orjson.Fragment(self.args), options]

    def resolve(self, outcome: Outcome) -> None:
        """Answer the caller, if there still is one."""
        self.number = 0
        if self.on_outcome is not None:
            self.on_outcome(self, outcome)
        if not self.answer.done():
            self.answer.set_result(outcome)

    def fail(self, error: BaseException) -> None:
        """There is no answer, and there will be none from this store."""
        if not self.answer.done():
            self.answer.set_exception(error)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more. A mutation is run all the same: it was promised to happen once."""
        return self.kind == "query" and self.answer.done()
