"""What the store costs: tables of microseconds, megabytes and rates, printed.

python tests/bench/store.py                      everything, about ten minutes
python tests/bench/store.py counts reads         only these
python tests/bench/store.py --scale 0.1          with a tenth of the documents and updates

commits     transactions a second, by how many share a group: two-document transfers, and inserts into two indexes
reads       a point read and a 50-document range at the newest moment, by dead revisions per document
worn        the same after one document was updated a million times, and in a table of a million updated 10 times each
counts      count() of a table and of half an index, by number of documents
backfill    documents a second into a new index, with a writer beside
retention   file, log and longest stalls over a million updates while history is given up
memory      of a process that scans a million documents, from before to after
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellstore.knobs import Knobs
from cellstore.schema.definition import IndexDefinition, TableDefinition
from cellstore.storage.contract import by_id_index
from cellstore.storage.sqlite import SqliteReader
from cellstore.transaction.database import Engine
from cellstore.transaction.transaction import Transaction
from cellstore.values.ids import decode_id
from cellstore.values.index_key import END

BATCH = 10_000


def item(n: int, dice: random.Random) -> dict[str, Any]:
    return {"no": n, "score": dice.random(), "owner": f"user{n % 997}", "text": "x" * 120, "balance": 1000}


ITEMS = TableDefinition(
    "items", {"type": "any"}, {"by_no": IndexDefinition(("no",)), "by_score": IndexDefinition(("score",))}
)


@contextmanager
def store(documents: int, knobs: Knobs | None = None, definition: TableDefinition = ITEMS) -> Iterator[Engine]:
    """A store with a table of so many items."""
    directory, dice = Path(tempfile.mkdtemp(prefix="cellstore-bench-")), random.Random(1)
    try:
        with Engine.open(directory / "store.db", knobs=knobs or Knobs()) as engine:
            engine.define(definition)
            for at in range(0, documents, BATCH):
                engine.bulk_insert("items", [item(n, dice) for n in range(at, min(documents, at + BATCH))])
            yield engine
    finally:
        shutil.rmtree(directory)


def ids_of(engine: Engine, count: int) -> list[str]:
    with engine.begin() as tx:
        rows = tx.scan("items", want=count)
        return [str(next(rows)[1]["_id"]) for _ in range(count)]


def micros(work: Callable[[], object], rounds: int = 300) -> float:
    """The median time of `work`, in µs."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


def megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6 if path.exists() else 0.0


# ── commits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def commits(scale: float) -> None:
    print("\ncommits a second, durable; functions run in the same process, one after another")
    print(f"{'in a group':>12}{'transfers':>12}{'inserts':>12}{'commit, µs each':>18}")
    with store(int(100_000 * scale)) as engine:
        ids, dice = ids_of(engine, int(100_000 * scale)), random.Random(2)
        for size in (1, 4, 16):
            transfers, spent = rate(engine, lambda size=size: [transfer(engine, dice, ids) for _ in range(size)])
            inserts, _ = rate(engine, lambda size=size: [insert(engine, dice) for _ in range(size)])
            print(f"{size:>12}{transfers:>12,.0f}{inserts:>12,.0f}{spent:>18.0f}")


def transfer(engine: Engine, dice: random.Random, ids: list[str]) -> Any:
    with engine.begin() as tx:
        for id, by in zip(dice.sample(ids, 2), (-1, 1), strict=True):
            document = tx.get(id)
            assert document is not None
            tx.patch(id, {"balance": document["balance"] + by})
        return tx.freeze("transfer")


def insert(engine: Engine, dice: random.Random) -> Any:
    with engine.begin() as tx:
        tx.insert("items", item(0, dice))
        return tx.freeze("insert")


def rate(engine: Engine, make: Callable[[], list[Any]], seconds: float = 3.0) -> tuple[float, float]:
    """(transactions a second, µs each of the commit alone)."""
    count, spent, begun = 0, 0.0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        requests = make()
        before = time.perf_counter()
        engine.commit(requests)
        spent += time.perf_counter() - before
        count += len(requests)
    return count / (time.perf_counter() - begun), spent / count * 1e6


# ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def reads(scale: float) -> None:
    documents = 2000
    print(f"\nµs at the newest moment, {documents:,} documents, by dead revisions of each")
    read_table_head()
    with store(documents) as engine:
        ids = ids_of(engine, documents)
        for dead, more in ((0, 0), (10, 10), (int(1000 * scale), int(1000 * scale) - 10)):
            for _ in range(more):
                update_all(engine, ids)
            read_row(engine, ids, f"{dead:,} dead each")


def worn(scale: float) -> None:
    print("\nµs at the newest moment, in stores that have seen much")
    read_table_head()
    with store(1000) as engine:
        ids = ids_of(engine, 1000)
        read_row(engine, ids[:50], "new")
        updates = int(1_000_000 * scale)
        for n in range(updates // 1000):
            update_one(engine, ids[0], n, 1000)
        read_row(engine, ids[:50], f"1 updated {updates:,} ×", ids[0])
    with store(int(1_000_000 * scale)) as engine:
        ids = ids_of(engine, int(1_000_000 * scale))
        read_row(engine, random.Random(3).sample(ids, 2000), f"{len(ids):,} once")
        for _ in range(10):
            update_all(engine, ids)
        read_row(engine, random.Random(3).sample(ids, 2000), f"{len(ids):,} 10 × each")


def read_table_head() -> None:
    print(f"{'':>26}{'point':>10}{'range of 50':>14}{'from the end':>14}{'file, MB':>11}")


def read_row(engine: Engine, ids: list[str], label: str, only: str | None = None) -> None:
    reader, dice = SqliteReader(engine.path), random.Random(4)
    reader.refresh()
    meta = engine.catalog.table("items")
    assert meta is not None
    table, score = meta.number, meta.indexes["by_score"].number
    raw = [decode_id(only or id)[1] for id in ids]

    def span(descending: bool) -> list[Any]:
        lo = b"" if only else bytes([0x05, 0xBF, 0xC0 + dice.randrange(0x28)])
        return list(reader.scan(score, table, lo, END, descending=descending, limit=50))

    point = micros(lambda: reader.get(table, dice.choice(raw)))
    forth, back = micros(lambda: span(False)), micros(lambda: span(True))
    print(f"{label:>26}{point:>10.1f}{forth:>14.1f}{back:>14.1f}{megabytes(Path(engine.path)):>11,.0f}")
    reader.close()


def update_all(engine: Engine, ids: list[str]) -> None:
    """Every document once, its score too, a thousand in a commit."""
    dice = random.Random()
    for at in range(0, len(ids), 1000):
        engine.run(lambda tx, at=at: [tx.patch(id, {"score": dice.random()}) for id in ids[at : at + 1000]])


def update_one(engine: Engine, id: str, start: int, count: int) -> None:
    """One document, `count` commits in one group."""
    from cellstore.transaction.overlay import Overlay

    overlay, requests = Overlay("bench"), []
    for n in range(count):
        with engine.begin(overlay=overlay) as tx:
            tx.patch(id, {"balance": start * count + n, "score": n / count})
            request = tx.freeze()
            overlay.apply(request)
            requests.append(request)
    engine.commit(requests)


# ── counts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def counts(scale: float) -> None:
    print("\nµs of a count, by number of documents")
    print(f"{'documents':>12}{'table':>9}{'half an index':>15}{'a moment ago':>14}{'walking the half':>18}")
    for documents in (1000, int(100_000 * scale), int(1_000_000 * scale)):
        with store(documents) as engine:
            before = engine.published_ts
            engine.run(lambda tx: tx.insert("items", item(0, random.Random(5))))
            with engine.begin() as tx, engine.begin(before) as past:
                count_row(documents, tx, past)


def count_row(documents: int, tx: Transaction, past: Transaction) -> None:
    index = tx.catalog.table("items").indexes["by_score"]  # type: ignore[union-attr]
    lo, hi = (index.key({"score": score, "_creationTime": 0.0}, b"")[:9] for score in (0.25, 0.75))
    whole = micros(lambda: tx.count("items"))
    half = micros(lambda: tx.count("items", "by_score", lo, hi))
    ago = micros(lambda: past.count("items", "by_score", lo, hi))
    counter = tx._snapshot.reader._counter  # type: ignore[attr-defined]
    walk = micros(lambda: counter.walk(index.number, lo, hi), 20)
    print(f"{documents:>12,}{whole:>9.0f}{half:>15.0f}{ago:>14.0f}{walk:>18,.0f}")


# ── backfill, retention, memory ───────────────────────────────────────────────────────────────────────────────────────


def backfill(scale: float) -> None:
    documents = int(300_000 * scale)
    bare = TableDefinition("items", {"type": "any"})
    with store(documents, definition=bare) as engine:
        ids, dice, commits_us, begun = ids_of(engine, 1000), random.Random(6), [], time.perf_counter()
        steps = engine.apply_definitions([ITEMS])
        for _ in steps:
            before = time.perf_counter()
            engine.commit([transfer(engine, dice, ids)])
            commits_us.append((time.perf_counter() - before) * 1e6)
        took_s = time.perf_counter() - begun
        print(f"\nbackfill of two indexes: {documents / took_s:,.0f} documents a second, with a writer beside")
        print(f"  its transfers: {statistics.median(commits_us):,.0f} µs, the longest {max(commits_us) / 1e3:,.1f} ms")


def retention(scale: float) -> None:
    updates, documents = int(1_000_000 * scale), 10_000
    print(f"\n{updates:,} updates of {documents:,} documents, history of 2 s kept; 16 in a group")
    print(f"{'updates':>12}{'file, MB':>10}{'log, MB':>9}{'slice, ms':>11}{'p99':>7}{'commit, ms':>12}{'p99':>7}")
    with store(documents, Knobs(retention_s=2.0)) as engine:
        ids, dice, due = ids_of(engine, documents), random.Random(7), 0.0
        slices: list[float] = []
        groups: list[float] = []
        for n in range(1, updates // 32 + 1):
            requests = [transfer(engine, dice, ids) for _ in range(16)]
            begun = time.perf_counter()
            engine.commit(requests)
            groups.append(time.perf_counter() - begun)
            if time.perf_counter() >= due:
                begun = time.perf_counter()
                wait_s = engine.retention.slice()
                slices.append(time.perf_counter() - begun)
                due = time.perf_counter() + wait_s
            if n % (updates // 320) == 0:
                sizes = f"{megabytes(Path(engine.path)):>10,.1f}{megabytes(Path(engine.path + '-wal')):>9,.1f}"
                print(f"{n * 32:>12,}{sizes}{middle_ms(slices):>11}{middle_ms(slices, 99):>7}", end="")
                print(f"{middle_ms(groups):>12}{middle_ms(groups, 99):>7}")
                slices.clear()
                groups.clear()
        print(f"  check: {list(engine.check()) or 'nothing to say'}")


def middle_ms(times_s: list[float], percent: int = 50) -> str:
    return f"{sorted(times_s)[len(times_s) * percent // 100] * 1e3:.1f}" if times_s else "–"


def memory(scale: float) -> None:
    documents = int(1_000_000 * scale)
    with store(documents) as engine:
        script = [sys.executable, __file__, "--scan", engine.path]
        told = subprocess.run(script, capture_output=True, text=True, check=True, timeout=600)
        print(f"\na process that scans {documents:,} documents ({megabytes(Path(engine.path)):,.0f} MB)")
        print(told.stdout.rstrip())


def scan(path: str) -> None:
    """In a process of its own: read everything, by creation time and by id, and tell how memory went."""
    from cellstore.transaction.worker_store import WorkerStore

    worker = WorkerStore(path, knobs=Knobs(read_rows_max=10**9, read_size_bytes=1 << 50))
    print(f"{'documents':>14}{'peak MB':>10}")
    for index in ("by_creation_time", "by_id"):
        transaction = worker.begin()
        print(f"{'start':>14}{peak_mb():>10.0f}")
        for n, _ in enumerate(transaction.scan("items", index), 1):
            if n % 250_000 == 0:
                print(f"{n:>14,}{peak_mb():>10.0f}")
        transaction.close()
    print(f"{'raw, by id':>14}", end="")
    reader = SqliteReader(path)
    reader.refresh()
    table = worker.catalog.table("items")
    assert table is not None
    count = sum(1 for _ in reader.scan(by_id_index(table.number), table.number, b"", END))
    print(f"{peak_mb():>10.0f}   ({count:,} documents)")


def peak_mb() -> float:
    """The most memory this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


SECTIONS = {each.__name__: each for each in (commits, reads, worn, counts, backfill, retention, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help="which of them; all without")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of documents and updates")
    parser.add_argument("--scan", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.scan:
        scan(given.scan)
        return
    unknown = set(given.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    for name in given.sections or SECTIONS:
        SECTIONS[name](given.scale)


if __name__ == "__main__":
    main()
