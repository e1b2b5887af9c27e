"""The commands that need no server."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner, Result

from cellstore.cli import main
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.transaction.database import Engine


def command(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A server's root with a store of twenty documents."""
    place = tmp_path / ".cellstore" / "default"
    place.mkdir(parents=True)
    with Engine.open(place / "store.db") as engine:
        engine.define(TableDefinition("t", {"type": "any"}, {"by_n": IndexDefinition(("n",))}))
        engine.run(lambda tx: [tx.insert("t", {"n": n}) for n in range(20)])
    return tmp_path


def store(root: Path) -> Path:
    return root / ".cellstore" / "default" / "store.db"


def test_check_passes_a_sound_store(root: Path) -> None:
    result = command("check", "--root", str(root))
    assert result.exit_code == 0, result.output
    assert "every invariant holds" in result.output


@pytest.mark.parametrize("damage", ["DELETE FROM entries WHERE idx >= 1000", "UPDATE docs SET ts = ts + 1"])
def test_check_reports_every_broken_invariant_of_a_damaged_one(root: Path, damage: str) -> None:
    connection = apsw.Connection(str(store(root)))
    index = next(connection.execute("SELECT max(idx) FROM entries"))[0]
    connection.execute(damage.replace("1000", str(index)))
    connection.close()
    result = command("check", "--root", str(root))
    assert result.exit_code == 1
    assert "broken invariants" in result.output
    assert len(result.output.splitlines()) > 2


def test_check_tells_of_a_file_that_is_no_store_any_more(root: Path) -> None:
    with store(root).open("r+b") as file:
        file.write(b"not a database at all")
    result = command("check", "--root", str(root))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "not a database" in result.output


def test_check_of_nothing_says_where_it_looked(tmp_path: Path) -> None:
    result = command("check", "--root", str(tmp_path))
    assert result.exit_code == 1
    assert str(store(tmp_path)) in result.output
    assert not store(tmp_path).exists()


def test_the_admin_key_is_made_once_and_names_its_deployment(tmp_path: Path) -> None:
    first = command("admin-key", "--root", str(tmp_path))
    assert first.exit_code == 0, first.output
    assert first.output.startswith("default|")
    assert command("admin-key", "--root", str(tmp_path)).output == first.output
    other = command("admin-key", "--root", str(tmp_path), "--deployment", "other")
    assert other.output.startswith("other|")


def test_every_command_tells_what_it_is_for() -> None:
    names = [
        "admin-key",
        "check",
        "data",
        "demo",
        "env",
        "deploy",
        "export",
        "functions",
        "import",
        "lab",
        "logs",
        "run",
        "serve",
    ]
    shown = command("--help").output
    for name in names:
        assert name in shown
        assert command(name, "--help").exit_code == 0
