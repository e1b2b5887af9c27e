"""`ctx.storage` where there is no server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from runtime_harness import Stage, play, value_of

from cellstore.errors import CallerError
from cellstore.transaction import files
from cellstore.transaction.database import Engine

FUNCTIONS = """
    @cs.action
    def keep(ctx, path: str):
        from pathlib import Path
        ids = [ctx.storage.store(b"bytes"), ctx.storage.store(Path(path))]
        with open(path, "rb") as file:
            ids.append(ctx.storage.store(file, "text/plain"))
        return [[ctx.storage.get(id) for id in ids], ids[0]]

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
