"""Room ahead of the writer: there before it is needed, never in the way of what is written, given back when it costs."""

import os
import shutil
import threading

import pytest

from cellstore.storage import room
from cellstore.storage.check import check
from cellstore.storage.room import FIRST_BYTES, FRAME_BYTES, FROM_BYTES, MOST_BYTES, Room
from cellstore.storage.sqlite import SqliteStorage
from cellstore.testing.revisions import Scribe, assert_same_as_scribe, keys_of

pytestmark = pytest.mark.skipif(not hasattr(os, "pwrite"), reason="this system writes at no offset")


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"commits")
    return path


def after_commit(made, used_bytes):
    """The writer has committed; returns once the thread it may have begun is done."""
    with made._guard:
        made.noticed(used_bytes // FRAME_BYTES + 1)
        thread = made._thread
    if thread is not None:
        thread.join()
    return thread is not None


def test_the_file_is_longer_before_the_writer_comes_to_its_end_and_holds_what_it_held(log):
    made = Room(log, threading.Lock())
    assert not after_commit(made, FROM_BYTES // 2)
    assert after_commit(made, FROM_BYTES)
    assert log.read_bytes() == b"commits" + bytes(log.stat().st_size - 7)
    used, grown = FROM_BYTES, log.stat().st_size
    assert grown >= FIRST_BYTES
    while grown < MOST_BYTES:
        used += 10 * FRAME_BYTES
        assert used < grown, "the writer has come to the end of the file"
        after_commit(made, used)
        grown = log.stat().st_size
    assert not after_commit(made, MOST_BYTES - FRAME_BYTES)
    assert log.stat().st_size < MOST_BYTES + len(room.SLICE)


def test_a_log_that_was_cut_and_begins_again_is_given_room_again(log):
    made = Room(log, threading.Lock())
    after_commit(made, 2 * FIRST_BYTES)
    os.truncate(log, 0)
    after_commit(made, FROM_BYTES)
    assert log.stat().st_size >= FIRST_BYTES


def test_a_disk_without_room_has_back_what_was_begun_and_is_not_asked_again(log, monkeypatch):
    def half(file, data, at):
        os.ftruncate(file, at + 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room.os, "pwrite", half)
    made = Room(log, threading.Lock())
    assert after_commit(made, FROM_BYTES)
    assert log.read_bytes() == b"commits"
    assert not after_commit(made, 2 * FROM_BYTES)


def test_a_disk_that_takes_half_a_slice_has_it_back(log, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(room.os, "pwrite", lambda file, data, at: pwrite(file, data[: len(data) // 2], at))
    made = Room(log, threading.Lock())
    assert after_commit(made, FROM_BYTES)
    assert log.read_bytes() == b"commits"
    assert not after_commit(made, 2 * FROM_BYTES)


def test_a_writer_waits_for_no_more_than_a_slice_and_its_fsync_for_no_more_either(log, monkeypatch):
    unsynced, most, fsync, pwrite = 0, 0, os.fsync, os.pwrite
    guard = threading.Lock()

    def write(file, data, at):
        nonlocal unsynced, most
        unsynced += len(data)
        most = max(most, unsynced)
        return pwrite(file, data, at)

    def sync(file):
        nonlocal unsynced
        assert not guard.locked()
        unsynced = 0
        fsync(file)

    monkeypatch.setattr(room.os, "pwrite", write)
    monkeypatch.setattr(room.os, "fsync", sync)
    assert after_commit(Room(log, guard), 2 * FIRST_BYTES)
    assert (most, unsynced) == (len(room.SLICE), 0)


def test_nothing_is_written_behind_the_back_of_a_writer_who_holds_the_guard(log):
    guard = threading.Lock()
    made = Room(log, guard)
    with guard:
        made.noticed(FROM_BYTES // FRAME_BYTES + 1)
        made._thread.join(0.05)
        assert log.read_bytes() == b"commits"
    made.close()
    assert made._thread is None


def test_a_store_whose_log_has_room_is_read_whole_after_the_power_went(tmp_path):
    storage, scribe = SqliteStorage.open(tmp_path / "store.db"), Scribe()
    while not (thread := storage._room._thread):
        storage.append([scribe.record({n: {"a": scribe.ts, "pad": "x" * 2000} for n in range(20)})])
    thread.join()
    for n in range(20):
        storage.append([scribe.record({n: {"a": 1}})])
    assert (tmp_path / "store.db-wal").read_bytes().endswith(bytes(FIRST_BYTES // 4))
    (tmp_path / "found").mkdir()
    for name in ("store.db", "store.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "found" / name)
    storage.close()
    found = SqliteStorage.open(tmp_path / "found" / "store.db")
    reader = found.reader()
    reader.refresh()
    assert_same_as_scribe(reader, scribe, [scribe.ts])
    reader.close()
    found.append([scribe.record({0: {"a": 2}})])
    assert list(check(tmp_path / "found" / "store.db", keys_of)) == []
    found.close()
