"""Plays a session from a script, and writes down what it does in the same notation.

    # prose
    > Connect {"sessionId": "s"}      the client sends (type, other fields)
    > Add 0 tasks:list                short for ModifyQuerySet with one Add; versions are counted along
    > Remove 0
    ! refreshed 10 0=[1.0] 1!boom     the store answers: query 0 has a value, query 1 failed
    < Transition (0,0,0) (1,0,10) 0=[1.0]
    ~ refresh 0 1@end                 an effect that is no message; query 1 is run with a journal

A script is right when playing its `>` and `!` lines gives back its `<` and `~` lines.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from cellstore.errors import ApplicationError, FunctionError, Overloaded, ValidationError
from cellstore.knobs import Knobs
from cellstore.protocol import messages as wire
from cellstore.protocol.codec import encode_frame
from cellstore.protocol.version import StateVersion
from cellstore.reactivity import session as machine
from cellstore.reactivity.principal import ANONYMOUS, EMBEDDED, NOBODY, Principal
from cellstore.reactivity.result import Result
from cellstore.reactivity.session import Session
from cellstore.runtime.outcome import ErrorInfo, Outcome

PEOPLE = {"owner": EMBEDDED, "anonymous": ANONYMOUS, "nobody": NOBODY, "reader": Principal("user", frozenset({"read"}))}


def play(script: str) -> str:
    """The script again, its outputs as they are."""
    player = Player()
    lines: list[str] = []
    for line in script.splitlines():
        if line.startswith(("<", "~")):
            continue
        lines.append(line)
        if line.startswith((">", "!")):
            lines += player.step(line)
    return "\n".join(lines) + "\n"


class Player:
    """One session and the counters a client keeps."""

    def __init__(self) -> None:
        self.session = Session(EMBEDDED, Knobs(queued_mutations_max=3, running_actions_max=2))
        self.query_set = 0

    def step(self, line: str) -> list[str]:
        """Do one line; what came of it."""
        verb, _, rest = line[1:].strip().partition(" ")
        effects = self.client(verb, rest) if line[0] == ">" else self.store(verb, shlex.split(rest, posix=False))
        return [text for effect in effects for text in [render(effect)] if text]

    def client(self, verb: str, rest: str) -> machine.Effects:
        """The client sends something."""
        words = rest.split(None, 2)
        if verb == "Add":
            args = json.loads(words[2]) if len(words) > 2 else {}
            return self.modify({"type": "Add", "queryId": int(words[0]), "udfPath": words[1], "args": [args]})
        if verb == "Remove":
            return self.modify({"type": "Remove", "queryId": int(words[0])})
        if verb in ("Mutation", "Action"):
            return self.receive({"type": verb, "requestId": int(words[0]), "udfPath": words[1], "args": [{}]})
        return self.receive({"type": verb, **(json.loads(rest) if rest else {})})

    def modify(self, modification: dict[str, Any]) -> machine.Effects:
        """One modification, in the next version of the query set."""
        base, self.query_set = self.query_set, self.query_set + 1
        new = {"baseVersion": base, "newVersion": self.query_set, "modifications": [modification]}
        return self.receive({"type": "ModifyQuerySet", **new})

    def receive(self, obj: dict[str, Any]) -> machine.Effects:
        """A frame, as the connection would take it."""
        try:
            return self.session.received(wire.parse(obj, self.session.exact))
        except ValidationError as wrong:
            return self.session.malformed(wrong.message)

    def store(self, verb: str, words: list[str]) -> machine.Effects:
        """Something happens on our side."""
        session = self.session
        match verb:
            case "door":
                session.base = session.who = PEOPLE[words[0]]
                return []
            case "refreshed":
                ts = int(words[0])
                return session.refreshed(ts, dict(parse_result(word, ts) for word in words[1:]))
            case "stale":
                session.mark(int(word) for word in words)
                return session.advance()
            case "committed":
                return session.committed(int(words[0]))
            case "mutation" | "action":
                done = session.mutation_done if verb == "mutation" else session.action_done
                return done(int(words[0]), parse_outcome(words[1], int(words[2]) if len(words) > 2 else 0))
            case "flushed" | "gone" | "tick" | "expired" | "heard_out":
                effects: machine.Effects = getattr(session, verb)()
                return effects
            case "verified":
                return session.verified(PEOPLE[words[0]])
            case "rejected":
                return session.rejected(words[0])
        raise AssertionError(f"the script says {verb!r}")


def parse_result(word: str, ts: int) -> tuple[int, Result]:
    """`0=value`, `0!message`, and `0=value@journal`."""
    mark = min(place for place in (word.find("="), word.find("!")) if place >= 0)
    outcome = parse_outcome(word[mark + 1 :] if word[mark] == "=" else word[mark:], ts)
    return int(word[:mark]), Result(outcome, ts)


def parse_outcome(word: str, ts: int) -> Outcome:
    """A JSON value, `!message` for a bug, `!!JSON` for an application error, `!?` for what may succeed later."""
    if word == "!?":
        return Outcome.failed(Overloaded("1000 calls are waiting", queue="calls"))
    if word.startswith("!!"):
        return Outcome.failed(ApplicationError(json.loads(word[2:])), ts=ts)
    if word.startswith("!"):
        broken = FunctionError(word[1:], traceback=f"Traceback: {word[1:]}")
        return Outcome.failed(ErrorInfo.of(broken, request_id="r1"), ts=ts)
    value, _, journal = word.partition("@")
    return Outcome(True, value.encode(), ts=ts, journal=journal or None, logs=[])


def render(effect: machine.Effect) -> str:
    """One effect as a line."""
    match effect:
        case machine.Send():
            return "< " + render_message(json.loads(encode_frame(effect.message)))
        case machine.Refresh():
            asked = (f"{id}@{query.journal}" if query.journal else str(id) for id, query in effect.queries.items())
            return f"~ refresh {' '.join(asked)}".rstrip()
        case machine.Release():
            return f"~ release {' '.join(map(str, effect.query_ids))}"
        case machine.RunMutation():
            return f"~ run {effect.call.path} #{effect.call.request_id} session={effect.session} as={effect.who.kind}"
        case machine.RunAction():
            return f"~ act {effect.call.path} #{effect.call.request_id} as={effect.who.kind}"
        case machine.Verify():
            return f"~ verify {effect.request.token_type} {effect.request.value}"
        case machine.Part():
            return f"~ part {effect.session} as={effect.who.kind} {' '.join(sorted(map(bytes.hex, effect.shown)))}"
        case machine.Recall():
            return f"~ recall {effect.session} as={effect.who.kind}"
        case machine.HearOut():
            return "~ hear out"
        case machine.Observed():
            return f"~ observed {effect.ts}"
        case machine.Close():
            return f"~ close {effect.code} {effect.reason}"


def render_message(message: dict[str, Any]) -> str:
    """A server message, short."""
    match message["type"]:
        case "Transition":
            start, end = (_version(message[side]) for side in ("startVersion", "endVersion"))
            return " ".join(["Transition", start, end, *map(_modification, message["modifications"])])
        case "MutationResponse" | "ActionResponse" as kind:
            said = _plain(message["result"]) if message["success"] else f"!{_first_line(message['result'])}"
            at = f" @{_ts(message['ts'])}" if "ts" in message else ""
            data = f" data={_plain(message['errorData'])}" if "errorData" in message else ""
            return f"{kind} {message['requestId']} {said}{at}{data}"
        case kind:
            return " ".join([kind, *(f"{name}={_plain(value)}" for name, value in message.items() if name != "type")])


def _modification(one: dict[str, Any]) -> str:
    match one["type"]:
        case "QueryUpdated":
            return f"{one['queryId']}={_plain(one['value'])}" + (f" #{one['digest']}" if "digest" in one else "")
        case "QueryRemoved":
            return f"-{one['queryId']}"
        case _:
            data = f" data={_plain(one['errorData'])}" if "errorData" in one else ""
            return f"{one['queryId']}!{_first_line(one['errorMessage'])}{data}"


def _first_line(text: str) -> str:
    return text.replace("\n", " | ")


def _plain(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _ts(text: str) -> int:
    return StateVersion.from_wire({"querySet": 0, "identity": 0, "ts": text}).ts


def _version(obj: dict[str, Any]) -> str:
    version = StateVersion.from_wire(obj)
    return f"({version.query_set},{version.identity},{version.ts})"
