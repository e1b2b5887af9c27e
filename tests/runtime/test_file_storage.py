"""`ctx.storage` where there is no server."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from runtime_harness import Stage, play, value_of

from cellstore.errors import CallerError, ConflictError, StorageError
from cellstore.runtime.files import answer
from cellstore.transaction import files
from cellstore.transaction.database import Engine
from cellstore.transaction.requests import CommitRequest, CommitResult

FUNCTIONS = """
    @cs.action
    def keep(ctx, path: str):
        from pathlib import Path
        ids = [ctx.storage.store(b"bytes"), ctx.storage.store(Path(path))]
        with open(path, "rb") as file:
            ids.append(ctx.storage.store(file, "text/plain"))
        return [[ctx.storage.get(id) for id in ids], ids[0]]

    @cs.action
    def read(ctx, id: str):
        return ctx.storage.get(id)

    @cs.query
    def url(ctx, id: str):
        return ctx.storage.get_url(id)

    @cs.mutation
    def address(ctx):
        return ctx.storage.generate_upload_url()

    @cs.mutation
    def store(ctx):
        return ctx.storage.store(b"")

    @cs.action
    def wrong(ctx):
        return ctx.storage.store("text")
"""


def test_files_lie_beside_the_store_and_their_address_says_where(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("text")

    async def scenario(stage: Stage) -> None:
        kept, id = value_of(await stage.runner.action("m:keep", {"path": str(tmp_path / "some.txt")}))
        assert kept == [b"bytes", b"text", b"text"]
        url = await stage.query("url", id=id)
        assert Path(url2pathname(urlsplit(url).path)).read_bytes() == b"bytes"
        assert len(list((tmp_path / "store.db.files").iterdir())) == 3

    play(tmp_path, FUNCTIONS, scenario, inline=True)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("mutation", "address", "without a server"),
        ("mutation", "store", "do it in an action"),
        ("action", "wrong", "expected bytes, an open file or a Path"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, kind: str, name: str, said: str) -> None:
    async def scenario(stage: Stage) -> None:
        failed = await getattr(stage.runner, kind)(f"m:{name}", {})
        assert said in str(failed.error)

    play(tmp_path, FUNCTIONS, scenario, inline=True)


def test_a_store_in_memory_keeps_no_files() -> None:
    with Engine.memory() as engine, pytest.raises(CallerError, match="open one in a file"):
        files.Incoming(engine.path)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process grows beyond a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_keeps_nothing_of_the_file_that_filled_it(tmp_path: Path) -> None:
    incoming = files.Incoming(str(tmp_path / "store.db"))
    incoming.write(b"x" * (1 << 20))
    incoming.write(b"some more")  # held back in memory: there is room for it nowhere else
    with pytest.raises(StorageError, match="could not be kept"):
        incoming.finish()
    incoming.drop()
    assert list(files.directory(str(tmp_path / "store.db")).iterdir()) == []


def test_a_sweep_does_not_mind_an_upload_that_ends_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.open(tmp_path / "store.db")
    home = files.directory(engine.path)
    home.mkdir()
    (home / "old").touch()
    os.utime(home / "old", (0, 0))
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([self / "upload.part", self / "old"]))
    assert files.sweep(engine) == 1
    engine.close()


def test_a_check_names_files_whose_bytes_are_gone_or_torn(tmp_path: Path) -> None:
    def kept(data: bytes) -> tuple[str, Path]:
        incoming = files.Incoming(engine.path)
        incoming.write(data)
        arrived = incoming.finish()
        return engine.run(lambda tx: files.keep(tx, arrived))[0], files.directory(engine.path) / arrived["file"]

    with Engine.open(tmp_path / "store.db") as engine:
        (gone, missing), (torn, short), _ = kept(b"one"), kept(b"two"), kept(b"three")
        assert list(engine.check()) == []
        missing.unlink()
        short.write_bytes(b"t")
        said = list(engine.check())
    assert [id in sentence for id, sentence in zip((gone, torn), said, strict=True)] == [True, True]
    assert ("its 3 bytes are not there" in said[0], "1 of its 3 bytes" in said[1]) == (True, True)


async def bytes_that_went(stage: Stage) -> None:
    _, id = value_of(await stage.runner.action("m:keep", {"path": __file__}))
    home = files.directory(stage.engine.path)
    home.rename(home.with_suffix(".elsewhere"))
    failed = await stage.runner.action("m:read", {"id": id})
    assert "the bytes of this file are not there" in str(failed.error)
    home.with_suffix(".elsewhere").rename(home)


def test_an_action_is_told_of_bytes_that_are_gone(tmp_path: Path) -> None:
    play(tmp_path, FUNCTIONS, bytes_that_went, inline=True)


def test_a_store_that_closes_does_not_wait_for_a_long_sweep(tmp_path: Path) -> None:
    with Engine.open(tmp_path / "store.db") as engine:
        home = files.directory(engine.path)
        home.mkdir()
        for number in range(5):
            (home / str(number)).touch()
            os.utime(home / str(number), (0, 0))
        assert files.sweep(engine, lambda: len(list(home.iterdir())) == 3) == 2
        assert files.sweep(engine) == 3


def test_an_actions_file_is_kept_after_a_conflict_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.open(tmp_path / "store.db")
    commit, refused = engine.commit, []

    def refuse_once(requests: Sequence[CommitRequest]) -> list[CommitResult]:
        if refused:
            return commit(requests)
        refused.append(requests)
        return [ConflictError("somebody was faster")]

    monkeypatch.setattr(engine, "commit", refuse_once)
    arrived = files.Incoming(engine.path).finish()
    outcome = answer(engine, "keep", {**arrived, "content_type": "text/plain"})
    assert (outcome.ok, len(refused)) == (True, 1)
    engine.close()
