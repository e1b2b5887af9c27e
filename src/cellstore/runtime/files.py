"""`ctx.storage`: files as functions see them.

    query      get_url(id) · get_metadata(id)
    mutation   the same, and delete(id) · generate_upload_url()
    action     all of it, and store(data, content_type) → id · get(id) → bytes; awaited in an `async def`

An action writes and reads the bytes itself, beside the store; the rest of it is a transaction of its own, at the host.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from cellstore.errors import CallerError, CellstoreError, LimitExceeded, ValidationError
from cellstore.runtime.outcome import Outcome
from cellstore.transaction import files
from cellstore.transaction.transaction import Transaction
from cellstore.values.json import dumps

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine
    from cellstore.values.document import Document

_IN_ACTIONS = {"store": "writes bytes", "get": "reads bytes"}
_IN_MUTATIONS = {"delete": "deletes", "generate_upload_url": "gives leave to upload"}


class QueryStorage:
    """`ctx.storage` of a query. `store` is the path of the store, empty in memory."""

    def __init__(self, transaction: Transaction, store: str) -> None:
        self._transaction, self._store = transaction, store

    def get_url(self, id: str) -> str | None:
        """Where the file can be read, by whoever knows it; None when there is no such file."""
        return files.url(self._transaction, self._store, id)

    def get_metadata(self, id: str) -> Document | None:
        """`_id`, `_creationTime`, `sha256` (base64), `size` in bytes, `contentType`; None when there is no such file."""
        return files.metadata(self._transaction, id)

    def __getattr__(self, name: str) -> NoReturn:
        """Errors: CallerError saying where else it can be done."""
        if name in _IN_MUTATIONS:
            raise CallerError(f"ctx.storage.{name} {_IN_MUTATIONS[name]}: do it in a mutation", code="NotAvailable")
        if name in _IN_ACTIONS:
            raise CallerError(f"ctx.storage.{name} {_IN_ACTIONS[name]}: do it in an action", code="NotAvailable")
        raise AttributeError(f"ctx.storage has no {name!r}")


class MutationStorage(QueryStorage):
    """`ctx.storage` of a mutation."""

    def delete(self, id: str) -> None:
        """The file is gone when this commits, and its address with it. Errors: NotFound."""
        files.remove(self._transaction, id)

    def generate_upload_url(self) -> str:
        """An address that takes a file by POST for an hour, and answers with `{"storageId"}`."""
        return files.upload_url(self._transaction)


class ActionStorage:
    """`ctx.storage` of an action. `ask` asks the host, and gives the answer or an awaitable of it."""

    def __init__(
        self, ask: Callable[[str, str, dict[str, Any]], Any], is_async: bool, store: str, size_max: int
    ) -> None:
        self._ask, self._is_async, self._store, self._size_max = ask, is_async, store, size_max

    def store(self, data: bytes | IO[bytes] | Path, content_type: str | None = None, sha256: str | None = None) -> Any:
        """Keep a file: bytes, an open file, or the path of one. Its id.

        Errors: ValidationError when `sha256` differs; LimitExceeded when it is larger than a file may be.
        """
        incoming = files.Incoming(self._store, content_type)
        try:
            for piece in _pieces(data):
                if incoming.size + len(piece) > self._size_max:
                    raise LimitExceeded(f"the file is more than {self._size_max:,} bytes (knob file_size_bytes)")
                incoming.write(piece)
            arrived = incoming.finish(sha256)
        except BaseException:
            incoming.drop()
            raise
        return self._ask("storage", "keep", arrived)

    def get(self, id: str) -> Any:
        """The bytes of a file; None when there is no such file. Errors: NotFound when only its bytes are gone."""
        return self._then(self._ask("storage", "name", {"id": id}), self._read)

    def get_url(self, id: str) -> Any:
        """As in a query."""
        return self._ask("storage", "url", {"id": id})

    def get_metadata(self, id: str) -> Any:
        """As in a query."""
        return self._ask("storage", "metadata", {"id": id})

    def delete(self, id: str) -> Any:
        """The file is gone when this returns. Errors: NotFound."""
        return self._ask("storage", "remove", {"id": id})

    def generate_upload_url(self) -> Any:
        """As in a mutation."""
        return self._ask("storage", "upload_url", {})

    def _read(self, name: str | None) -> bytes | None:
        if name is None:
            return None
        with files.opened(files.directory(self._store) / name) as file:
            return file.read()

    def _then(self, answer: Any, work: Callable[[Any], Any]) -> Any:
        if not self._is_async:
            return work(answer)

        async def later() -> Any:
            return work(await answer)

        return later()


def _pieces(data: Any) -> Any:
    if isinstance(data, bytes | bytearray | memoryview):
        yield bytes(data)
    elif isinstance(data, Path):
        with data.open("rb") as file:
            yield from iter(lambda: file.read(files.PIECE_BYTES), b"")
    elif hasattr(data, "read"):
        yield from iter(lambda: data.read(files.PIECE_BYTES), b"")
    else:
        raise ValidationError(path="data", expected="bytes, an open file or a Path", got=type(data).__name__)


def answer(engine: Engine, what: str, args: dict[str, Any]) -> Outcome:
    """What an action asks of the host. A transaction of its own."""

    def work(transaction: Transaction) -> Any:
        match what:
            case "keep":
                return files.keep(transaction, args)
            case "name":
                return files.name_of(transaction, args["id"])
            case "url":
                return files.url(transaction, engine.path, args["id"])
            case "metadata":
                return files.metadata(transaction, args["id"])
            case "remove":
                return files.remove(transaction, args["id"])
            case "upload_url":
                return files.upload_url(transaction)
        raise CallerError(f"an action asked for {what!r} of a file, which does not exist")

    try:
        if what in ("keep", "remove"):
            value, ts = engine.run(work, files.STORAGE)
        else:
            with engine.begin() as transaction:
                value, ts = work(transaction), transaction.begin_ts
        return Outcome(True, dumps(value), ts=ts)
    except CellstoreError as error:
        return Outcome.failed(error)
