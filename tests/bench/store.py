"""What the store costs: tables of microseconds, megabytes and rates, printed.

python tests/bench/store.py                      everything, about half an hour
python tests/bench/store.py counts reads         only these
python tests/bench/store.py --scale 0.1          with a tenth of the documents and updates

commits     transactions a second, by how many share a group: two-document transfers, and inserts into two indexes
reads       a point read and a 50-document range at the newest moment, by dead revisions per document
worn        the same after one document was updated a million times, and in a table of a million updated 10 times each
counts      count() of a table and of half an index, by number of documents
backfill    documents a second into a new index, with a writer beside
rename      how long a writer beside waits at most while a field of every document gets another name
retention   file, log and longest stalls over a million updates while history is given up
memory      of a process that scans a million documents, from before to after
served      of a server and its workers while a million documents are scanned: in pages, by exports, by SQL
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from server_process import TOKEN, ServerProcess

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
def store(
    documents: int, knobs: Knobs | None = None, definition: TableDefinition = ITEMS, at: Path | None = None
) -> Iterator[Engine]:
    """A store with a table of so many items; it stays if it is told where."""
    directory, dice = Path(tempfile.mkdtemp(prefix="cellstore-bench-")), random.Random(1)
    try:
        with Engine.open(at or directory / "store.db", knobs=knobs or Knobs()) as engine:
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
        for n in range(10):
            update_all(engine, ids, "balance" if n else "score")  # once in another place of an index, then in place
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


def update_all(engine: Engine, ids: list[str], field: str = "score") -> None:
    """Every document once, a thousand in a commit. The score is indexed, the balance is not."""
    dice = random.Random()
    for at in range(0, len(ids), 1000):
        engine.run(lambda tx, at=at: [tx.patch(id, {field: dice.random()}) for id in ids[at : at + 1000]])


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
        slices_ms, due = [], begun
        for _ in timed(engine.apply_definitions([ITEMS]), slices_ms):
            before = time.perf_counter()
            if before >= due:
                engine.commit([transfer(engine, dice, ids)])
                commits_us.append((time.perf_counter() - before) * 1e6)
                due = time.perf_counter() + 0.005
        took_s = time.perf_counter() - begun
        slices_ms.sort()
        middle, high = slices_ms[len(slices_ms) // 2], slices_ms[int(len(slices_ms) * 0.99)]
        print(f"\nbackfill of two indexes: {documents / took_s:,.0f} documents a second, with a writer every 5 ms")
        print(
            f"  its slices: {middle:,.1f} ms, of a hundred the longest {high:,.1f} ms, of all {slices_ms[-1]:,.1f} ms"
        )
        print(f"  its transfers: {statistics.median(commits_us):,.0f} µs, the longest {max(commits_us) / 1e3:,.1f} ms")


def timed(steps: Iterator[Any], taken_ms: list[float]) -> Iterator[Any]:
    """The steps, and how long each took."""
    while True:
        begun = time.perf_counter()
        try:
            step = next(steps)
        except StopIteration:
            return
        taken_ms.append((time.perf_counter() - begun) * 1e3)
        yield step


def rename(scale: float) -> None:
    print("\nan indexed field renamed, with a writer in another thread")
    print(
        f"{'documents':>12}{'seconds':>10}{'transfers':>11}{'median, ms':>12}{'p99':>7}{'longest':>9}{'one commit':>12}"
    )
    kinds = {"no": "int", "score": "float", "owner": "string", "balance": "int"}
    before, after = (declared({**kinds, text: "string"}, text) for text in ("text", "body"))
    for documents in (int(100_000 * scale), int(1_000_000 * scale)):
        with store(documents, definition=before) as engine:
            took_s, times = beside(engine, lambda engine=engine: engine.define(replace(after, renamed_fields=RENAMED)))
            with closing(SqliteReader(engine.path)) as reader:
                written = len(reader.log(engine.catalog.ts - 1, reader.refresh(), 1))
            times.sort()
            middle, high, longest = (times[int(len(times) * p)] * 1e3 for p in (0.5, 0.99, 1 - 1e-9))
            row = f"{documents:>12,}{took_s:>10.2f}{len(times):>11,}{middle:>12.2f}{high:>7.1f}{longest:>9.1f}"
            print(f"{row}{written:>6} writes")


RENAMED = {"text": "body"}


def declared(kinds: dict[str, str], indexed: str) -> TableDefinition:
    """The table with all fields declared, and indexes over the score and over one that is to be renamed."""
    fields = {name: {"type": {"type": kind}, "optional": False} for name, kind in kinds.items()}
    indexes = {"by_score": IndexDefinition(("score",)), "by_text": IndexDefinition((indexed,))}
    return TableDefinition("items", {"type": "object", "fields": fields}, indexes)


def beside(engine: Engine, work: Callable[[], object]) -> tuple[float, list[float]]:
    """(how long `work` took, how long each transfer took that another thread made meanwhile), in s."""
    ids, dice, times, over = ids_of(engine, 1000), random.Random(8), [], threading.Event()

    def write() -> None:
        while not over.is_set():
            before = time.perf_counter()
            engine.commit([transfer(engine, dice, ids)])
            times.append(time.perf_counter() - before)

    writer = threading.Thread(target=write)
    writer.start()
    begun = time.perf_counter()
    try:
        work()
    finally:
        over.set()
        writer.join()
    return time.perf_counter() - begun, times


def retention(scale: float) -> None:
    updates, documents = int(1_000_000 * scale), 10_000
    print(f"\n{updates:,} updates of {documents:,} documents, history of 2 s kept; 16 in a group")
    head = "".join(f"{name:>12}{'p99':>7}{'max':>7}" for name in ("slice, ms", "commit, ms"))
    print(f"{'updates':>12}{'file, MB':>10}{'log, MB':>9}{head}")
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
                print(f"{n * 32:>12,}{sizes}{spread_ms(slices)}{spread_ms(groups)}", flush=True)
                slices.clear()
                groups.clear()
        print(f"  check: {list(engine.check()) or 'nothing to say'}")


def spread_ms(times_s: list[float]) -> str:
    """The middle one, that of one in a hundred, and the longest, in ms."""
    if not times_s:
        return f"{'–':>12}{'–':>7}{'–':>7}"
    middle, high, longest = (
        sorted(times_s)[min(len(times_s) * p // 100, len(times_s) - 1)] * 1e3 for p in (50, 99, 100)
    )
    return f"{middle:>12.1f}{high:>7.1f}{longest:>7.1f}"


def memory(scale: float) -> None:
    documents = int(1_000_000 * scale)
    with store(documents) as engine:
        script = [sys.executable, __file__, "--scan", engine.path]
        told = subprocess.run(script, capture_output=True, text=True, check=True, timeout=600)
        print(f"\na process that scans {documents:,} documents ({megabytes(Path(engine.path)):,.0f} MB)")
        print(told.stdout.rstrip())


def served(scale: float) -> None:
    documents = int(1_000_000 * scale)
    with tempfile.TemporaryDirectory(prefix="cellstore-bench-") as place:
        path = Path(place) / ".cellstore" / "default" / "store.db"
        path.parent.mkdir(parents=True)
        with store(documents, at=path):
            pass
        server = ServerProcess(Path(place), allow_anonymous=True).start()
        try:
            scan_served(server, documents, Path(place))
        finally:
            server.stop()


def scan_served(server: ServerProcess, documents: int, place: Path) -> None:
    """Every way through a large table, and the most memory the server and any of its workers held meanwhile."""
    import cellstore as cs

    server.deploy(Path(__file__).with_name("shelf.py"))
    assert server.process is not None
    pid = server.process.pid
    print(f"\na server while {documents:,} documents are scanned; MB at the start and at most")
    print(f"{'':>26}{'seconds':>10}{'documents':>12}{'server':>16}{'largest worker':>18}")
    with cs.connect(server.url, token=TOKEN) as db:
        ways: dict[str, Callable[[], int]] = {
            "pages of 2,000": lambda: pages(db),
            "parts of an index": lambda: sum(part(db, n, 500) for n in range(500)),
            "exported as JSON lines": lambda: lines(db.export(place / "out.jsonl", ["items"])),
            "exported as Parquet": lambda: db.export(place / "out.parquet", ["items"]).stat().st_size and documents,
            "counted by SQL": lambda: int(db.sql("select count(*) as n from items").rows()[0]["n"]),
            "pages of 2,000 again": lambda: pages(db),
        }
        for label, way in ways.items():
            before, *_ = [reset_peak(each) for each in (pid, *children_of(pid))]
            begun = time.perf_counter()
            found = way()
            took_s = time.perf_counter() - begun
            worker = max(peak_mb(each) for each in children_of(pid))
            print(
                f"{label:>26}{took_s:>10.1f}{found:>12,}{before:>8.0f}{peak_mb(pid):>8.0f}{worker:>18.0f}", flush=True
            )


def pages(db: Any) -> int:
    count, cursor = 0, None
    while True:
        page = db.query("shelf:page", cursor=cursor, size=2_000)
        count, cursor = count + len(page["page"]), page["continueCursor"]
        if page["isDone"]:
            return count


def part(db: Any, n: int, of: int) -> int:
    """Goes through it in a worker; how many documents there were."""
    return int(db.query("shelf:last_of", low=n / of, high=(n + 1) / of)[0])


def lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def children_of(pid: int) -> list[int]:
    """All below a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in found for each in (int(child), *children_of(int(child)))]


def reset_peak(pid: int) -> float:
    """Forget the most memory a process held until now, in MB: what it holds now is the most again."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_mb(pid)


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


def peak_mb(pid: int | str = "self") -> float:
    """The most memory a process ever held."""
    told = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in told if line.startswith("VmHWM")), 0) / 1024


SECTIONS = {each.__name__: each for each in (commits, reads, worn, counts, backfill, rename, retention, memory, served)}


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
