"""Files of a store: bytes beside it, in `<store>.files`, and what is known of them in the store.

    _storage        sha256 (base64), size, contentType?                     what functions see
    _file_storage   storageId, file (a uuid: its name on disk and in its URL)       by_file, by_storage
    _deployment     url, secret (of upload tokens)                          one row, written when a server starts

A file is on the disk, whole and synced, before the transaction that makes it known commits; so every row has its bytes.
Whoever knows the URL may read the file, until the transaction commits that deletes it. Its bytes go with the next `sweep`
after that, and so do those of uploads that came to nothing.

Errors     NotFound (StorageIdNotFound) for a file that is not there; ValidationError for what is no id of `_storage`, for
           a digest that does not match (Sha256Mismatch), a token that is over (StorageTokenExpired), a content type that
           could not be sent as one
"""

from __future__ import annotations

import base64
import glob
import hashlib
import hmac
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cellstore.errors import CallerError, NotFound, StorageError, ValidationError
from cellstore.transaction.access import QueryBuilder
from cellstore.transaction.catalog import FILE_NAMES, by_creation_time
from cellstore.values.index_key import END
from cellstore.values.json import loads

if TYPE_CHECKING:
    from cellstore.transaction.database import Engine
    from cellstore.transaction.transaction import Transaction
    from cellstore.values.document import Document

STORAGE, NAMES, DEPLOYMENT = "_storage", "_file_storage", "_deployment"
TOKEN_S = 3600.0
SWEEP_S = 3600.0  # a file without a row may be one whose transaction is under way
PIECE_BYTES = 1 << 20
_PART = ".part"
_RANDOM_CHARS = 8  # at the end of what `tempfile` makes
_CONTENT_TYPE = re.compile(r"[ -~]{1,255}")


def directory(store: str) -> Path:
    """Where the files of a store lie. Errors: CallerError for one in memory."""
    if not store:
        raise CallerError("this store is in memory and keeps no files: open one in a file", code="NotAvailable")
    return Path(f"{store}.files")


def scratch_directory(store: str, what: str) -> Path:
    """A new directory for what becomes of a store, or is to become part of it: beside it, where there is room for a copy."""
    home = Path(store).resolve().parent if store else None
    return Path(tempfile.mkdtemp(prefix=_scratch_prefix(store, what), dir=home))


def scratch_directories_left(store: str, what: str) -> list[Path]:
    """Those of this store, and no other beside it, that are there."""
    if not store:
        return []
    return list(Path(store).resolve().parent.glob(glob.escape(_scratch_prefix(store, what)) + "?" * _RANDOM_CHARS))


def _scratch_prefix(store: str, what: str) -> str:
    return f".cellstore-{what}-{Path(store).name}-"


class Incoming:
    """A file that arrives: `write` its pieces, then `finish`; or `drop` it."""

    def __init__(self, store: str, content_type: str | None = None) -> None:
        """Errors: ValidationError for what is no content type."""
        self._content_type = _checked(content_type) if content_type else None
        home = directory(store)
        home.mkdir(mode=0o700, exist_ok=True)
        self.name, self.size = str(uuid.uuid4()), 0
        self._whole = home / self.name
        self._part = home / f"{self.name}{_PART}"
        self._hash = hashlib.sha256()
        self._file: IO[bytes] = self._part.open("xb")

    def write(self, piece: bytes) -> None:
        """Some more of it. Errors: StorageError when the disk is full, or another thread dropped it meanwhile."""
        try:
            self._file.write(piece)
        except OSError as error:
            raise _not_kept(error) from error
        except ValueError as closed:
            raise StorageError("the file was given up while it arrived: send it again") from closed
        self._hash.update(piece)
        self.size += len(piece)

    def finish(self, sha256: str | None = None) -> dict[str, Any]:
        """That was all of it: what `keep` wants to know. Errors: ValidationError when `sha256` (base64) is another;
        StorageError."""
        digest = base64.b64encode(self._hash.digest()).decode()
        if sha256 is not None and sha256 != digest:
            self.drop()
            raise ValidationError(path="Digest", expected=f"sha-256={digest}", got=sha256[:60], code="Sha256Mismatch")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.rename(self._whole)
            _sync(self._whole.parent)
        except OSError as error:
            raise _not_kept(error) from error
        return {"file": self.name, "sha256": digest, "size": self.size, "content_type": self._content_type}

    def drop(self) -> None:
        """Nothing is left of it. Again is fine."""
        with suppress(OSError):  # a full disk does not even take what was held back
            self._file.close()
        self._part.unlink(missing_ok=True)


def _checked(content_type: Any) -> str:
    """What can be sent in a header when the file is served. Errors: ValidationError."""
    if not isinstance(content_type, str) or not _CONTENT_TYPE.fullmatch(content_type):
        expected = "up to 255 printable ASCII characters, like image/png"
        raise ValidationError(path="content_type", expected=expected, got=repr(content_type)[:60])
    return content_type


def _not_kept(error: OSError) -> StorageError:
    return StorageError(f"the file could not be kept: {error.strerror or error}")


def _sync(home: Path) -> None:
    handle = os.open(home, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file that is known. Errors: NotFound."""
    try:
        return path.open("rb")
    except FileNotFoundError as gone:
        raise NotFound("the bytes of this file are not there, or no longer", kind="file", code="FileNotFound") from gone


# ── in a transaction ──────────────────────────────────────────────────────────────────────────────────────────────


def keep(
    transaction: Transaction,
    arrived: dict[str, Any],
    *,
    id: str | None = None,
    creation_time: float | None = None,
) -> str:
    """Make a finished file known; its id."""
    fields = {"sha256": arrived["sha256"], "size": arrived["size"]}
    fields |= {"contentType": arrived["content_type"]} if arrived["content_type"] else {}
    key = str(transaction.insert(STORAGE, fields, id=id, creation_time=creation_time))
    transaction.insert(NAMES, {"storageId": key, "file": arrived["file"]})
    return key


def ids(transaction: Transaction) -> list[str]:
    """Every file there is."""
    return [str(row["_id"]) for row in QueryBuilder(transaction, STORAGE)]


def metadata(transaction: Transaction, id: str) -> Document | None:
    """What is known of a file."""
    return transaction.get(id, STORAGE)


def name_of(transaction: Transaction, id: str) -> str | None:
    """The name of a file on disk."""
    if transaction.get(id, STORAGE) is None:
        return None
    row = QueryBuilder(transaction, NAMES).with_index("by_storage", storageId=str(id)).first()
    return None if row is None else str(row["file"])


def found(transaction: Transaction, name: str) -> Document | None:
    """What is known of the file of this name."""
    row = QueryBuilder(transaction, NAMES).with_index("by_file", file=name).first()
    return None if row is None else transaction.get(row["storageId"], STORAGE)


def url(transaction: Transaction, store: str, id: str) -> str | None:
    """Where a file can be read: from the server, or without one, where it lies."""
    name = name_of(transaction, id)
    if name is None:
        return None
    served = _deployment(transaction).get("url")
    return f"{served}/api/storage/{name}" if served else (directory(store).resolve() / name).as_uri()


def remove(transaction: Transaction, id: str) -> None:
    """Forget a file. Errors: NotFound."""
    row = QueryBuilder(transaction, NAMES).with_index("by_storage", storageId=str(id)).first()
    if transaction.get(id, STORAGE) is None or row is None:
        raise NotFound(f"there is no file {id!r}", kind="file", name=str(id), code="StorageIdNotFound")
    transaction.delete(row["_id"])
    transaction.delete(id)


def upload_url(transaction: Transaction) -> str:
    """An address that takes one file, or several, by POST, for an hour. Errors: CallerError without a server."""
    row = _deployment(transaction)
    if not row.get("url"):
        raise CallerError("a store without a server takes no uploads: store files in an action, with ctx.storage.store")
    until = int(transaction.now_ms / 1000 + TOKEN_S).to_bytes(8, "big") + transaction.random(8)
    token = base64.urlsafe_b64encode(until + _signature(transaction.secret, until)).decode().rstrip("=")
    return f"{row['url']}/api/storage/upload?token={token}"


def check_token(transaction: Transaction, token: str) -> None:
    """Whether this is the token of an upload address, and its hour not over. Errors: ValidationError."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        raw = b""
    secret = transaction.secret
    if not secret or len(raw) != 48 or not hmac.compare_digest(raw[16:], _signature(secret, raw[:16])):
        raise ValidationError("this is no upload address of this store", path="token", code="StorageTokenInvalid")
    if int.from_bytes(raw[:8], "big") < time.time():
        raise ValidationError("the hour of this upload address is over: make another", code="StorageTokenExpired")


def _signature(secret: bytes, text: bytes) -> bytes:
    return hmac.digest(secret, text, "sha256")


def _deployment(transaction: Transaction) -> dict[str, Any]:
    return QueryBuilder(transaction, DEPLOYMENT).first() or {}


# ── for the owner of the store ────────────────────────────────────────────────────────────────────────────────────


def announce(engine: Engine, served: str) -> None:
    """Write down where files are served now, so that functions can say it."""

    def put(transaction: Transaction) -> None:
        row = QueryBuilder(transaction, DEPLOYMENT).first()
        if row is None:
            transaction.insert(DEPLOYMENT, {"url": served, "secret": transaction.random(32).hex()})
        else:
            transaction.patch(row["_id"], {"url": served})

    with engine.begin() as transaction:
        known = _deployment(transaction).get("url", "")
    if known != served:
        engine.run(put, DEPLOYMENT)


def broken(engine: Engine) -> Iterator[str]:
    """A sentence for each file that is known and whose bytes are not there, or not all of them."""
    home, reader = directory(engine.path), engine.storage.reader()
    with closing(reader):
        reader.refresh()
        for row in reader.scan(by_creation_time(FILE_NAMES), FILE_NAMES, b"", END):
            name = loads(row.body)
            with engine.begin() as transaction:
                known = found(transaction, name["file"])
            problem = None if known is None else _problem(home / name["file"], int(known["size"]))
            if problem is not None:
                yield f"the file {name['storageId']}: {problem} ({home / name['file']}): bring it back from a copy, or delete it"


def _problem(path: Path, size: int) -> str | None:
    if not path.exists():
        return f"its {size:,} bytes are not there"
    there = path.stat().st_size
    return None if there == size else f"{there:,} of its {size:,} bytes are there"


def sweep(engine: Engine, is_over: Callable[[], bool] = lambda: False) -> int:
    """Remove the bytes of files that are not known any more, and of what never became one; how many. Until `is_over`."""
    home = directory(engine.path) if engine.path else None
    if home is None or not home.is_dir():
        return 0
    swept, before_s = 0, time.time() - SWEEP_S
    for path in home.iterdir():
        if is_over():
            break
        with engine.begin() as transaction, suppress(FileNotFoundError):  # an upload that has just ended is renamed
            if path.stat().st_mtime < before_s and found(transaction, path.name) is None:
                path.unlink(missing_ok=True)
                swept += 1
    return swept
