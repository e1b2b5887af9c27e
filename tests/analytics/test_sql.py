"""SQL over the store: what may be asked, what is refused, and how mistakes read."""

import itertools
import json
import threading

import pytest

from cellstore.analytics.analyst import GivenUp
from cellstore.analytics.sql import tables_changed
from cellstore.errors import CellstoreError, LimitExceeded, NotFound, ValidationError
from cellstore.knobs import Knobs
from cellstore.transaction.write_log import WriteLog


@pytest.fixture
def shop(desk):
    desk.write(lambda tx: [tx.insert("items", {"name": name, "price": n}) for n, name in enumerate("abc")])
    desk.write(lambda tx: tx.insert("users", {"name": "b"}))
    return desk


@pytest.mark.parametrize(
    "statement",
    [
        "select count(*) as n from items",
        "select count(*) as n from ITEMS;",
        "from items select count(*) as n -- how many",
        "with x as (from items) select count(*) as n from x",
        "with items as (select * from items) select count(*) as n from items",
        "select 3 as n where exists (select 1 from items i join users u on i.name = u.name)",
        "select len(list(name)) as n from items where price >= (select min(price) from items)",
        "values (3) union all select 0 limit 1",
        "pivot (select name from items) on name in ('a') using sum(3) as n",
        "select count(*) as n from (describe items) where column_name != '_creationTime'",
    ],
)
def test_anything_that_reads_is_possible(shop, statement):
    (row,) = shop.sql(statement)
    assert next(value for value in row.values() if isinstance(value, int)) == 3


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("", "no SQL statement"),
        ("-- nothing", "no SQL statement"),
        ("select 1; select 2", "one SQL statement at a time"),
        ("create table t as select 1", "not CREATE"),
        ("insert into items values (1)", "not INSERT"),
        ("delete from items", "not DELETE"),
        ("drop table items", "not DROP"),
        ("set threads = 1", "not SET"),
        ("copy items to 'x.csv'", "not COPY"),
        ("attach 'x.db'", "not ATTACH"),
        ("install httpfs", "not LOAD"),
        ("explain select 1", "EXPLAIN"),
        ("pivot items on name using count(*)", "list its values"),
        ("select $1", "parameters"),
        ("select * from main.items", "have no schema"),
    ],
)
def test_anything_else_is_refused_with_the_reason(shop, statement, why):
    with pytest.raises(ValidationError, match=why):
        shop.sql(statement)
    assert shop.sql("select count(*) as n from items") == [{"n": 3}]


def test_a_statement_cannot_write_through_the_back_door(shop):
    shop.sql("from items")
    copy = next(iter(shop.analyst._mirror._copies.values())).name
    for statement in (
        f"select * from {copy}",
        f"with d as (insert into {copy} select * from {copy} returning *) select * from d",
        f"with {copy} as (select 1), d as (delete from {copy} returning *) select * from d",
    ):
        with pytest.raises(CellstoreError):
            shop.sql(statement)
    assert shop.sql("select count(*) as n from items") == [{"n": 3}]


@pytest.mark.parametrize(
    "source",
    ["read_text('/etc/hostname')", "read_csv('/etc/passwd')", "read_parquet('http://127.0.0.1:1/x')", "glob('/etc/*')"],
)
def test_files_and_network_are_out_of_reach(shop, source):
    with pytest.raises(ValidationError, match=r"cannot be reached from SQL"):
        shop.sql(f"select * from {source}")


def test_the_configuration_is_locked(shop):
    settings = shop.sql(
        "select name, value from duckdb_settings() where name in ('enable_external_access', 'lock_configuration')"
    )
    assert {row["name"]: row["value"] for row in settings} == {
        "enable_external_access": "false",
        "lock_configuration": "true",
    }


def test_a_table_that_does_not_exist_is_named_with_those_that_do(shop):
    with pytest.raises(NotFound, match="no table 'itmes' at this moment; there are: items, users"):
        shop.sql("select * from itmes")


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("selec 1", r'syntax error at or near "selec"(.|\n)*\^'),
        ("select pric from items", r'"pric" not found(.|\n)*"price"'),
        ("select name::int from items", "Could not convert string 'a'"),
        ("select nosuch(1)", "nosuch does not exist"),
    ],
)
def test_mistakes_point_into_the_statement(shop, statement, says):
    with pytest.raises(ValidationError, match=says) as told:
        shop.sql(statement)
    assert "COPY" not in str(told.value)


def test_sums_of_ints_are_exact(shop):
    shop.write(lambda tx: [tx.insert("big", {"n": 2**62}) for _ in range(3)])
    assert shop.sql("select sum(n) as s from big") == [{"s": 3 * 2**62}]
    assert shop.sql("select sum(price) as s, 1 as x from items order by s") == [{"s": 3, "x": 1}]
    assert shop.sql("select sum(price) as s, name from items group by name order by name desc") == [
        {"s": 2, "name": "c"},
        {"s": 1, "name": "b"},
        {"s": 0, "name": "a"},
    ]


def test_results_come_as_csv_too_and_in_no_other_format(shop):
    text = shop.ask("sql", statement="select name from items order by 1", ts=shop.now, format="csv")
    assert text == b"name\na\nb\nc\n"
    with pytest.raises(ValidationError, match="'parquet' or 'csv', got 'xlsx'"):
        shop.ask("sql", statement="select 1", ts=shop.now, format="xlsx")


def test_two_tables_are_read_at_one_moment(shop):
    def move(tx):
        tx.insert("left_", {"n": 1})
        tx.insert("right_", {"n": 1})

    shop.write(move)
    then = shop.now
    counts = "select (select count(*) from left_) as l, (select count(*) from right_) as r"
    assert shop.sql(counts) == [{"l": 1, "r": 1}]
    for _ in range(3):
        shop.write(move)
    assert shop.sql(counts) == [{"l": 4, "r": 4}]
    assert shop.sql(counts, then) == [{"l": 1, "r": 1}]


def test_tables_that_differ_in_case_only_cannot_be_told_apart_in_one_statement(shop):
    shop.write(lambda tx: tx.insert("Items", {"other": 1}))
    assert shop.sql('select other from "Items"') == [{"other": 1}]
    assert shop.sql("select count(price) as n from items") == [{"n": 3}]
    with pytest.raises(ValidationError, match="differ in case only"):
        shop.sql('select * from items, "Items"')
    with pytest.raises(NotFound):
        shop.sql("select * from ITEMS")


def test_a_result_beyond_the_knob_is_refused(shop, monkeypatch, tmp_path):
    monkeypatch.setattr(shop.analyst, "_knobs", Knobs(analytics_result_bytes=1000))
    with pytest.raises(LimitExceeded, match="analytics_result_bytes"):
        shop.sql("select range as n from range(10000)")
    assert not list(tmp_path.glob("scratch/result*"))


def test_a_statement_can_be_given_up_while_others_run(shop):
    numbers = itertools.count(1000)
    given_up = next(numbers)
    errors = []

    def ask():
        try:
            shop.analyst.run("sql", {"statement": SLOW, "ts": shop.now, "format": "csv"}, given_up)
        except CellstoreError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while given_up not in shop.analyst._calls:
        thread.join(0.001)
    assert shop.sql("select 1 as one") == [{"one": 1}]
    while thread.is_alive():
        shop.analyst.cancel(given_up)
        thread.join(0.05)
    assert isinstance(errors[0], GivenUp | ValidationError)


SLOW = "select count(*) from range(100000000) a, range(100000) b where a.range + b.range = 7"


def test_a_statement_tells_the_tables_it_reads(desk):
    told = desk.ask("sql_tables", statement="select * from a join (from b) using (x) where y in (select y from C)")
    assert sorted(json.loads(told)) == ["C", "a", "b"]
    with pytest.raises(ValidationError, match="syntax error"):
        desk.ask("sql_tables", statement="selec 1")


def changed(desk, since, *tables):
    """(the answer, what it depends on)."""
    with desk.engine.begin() as transaction:
        answer = tables_changed(transaction, {"tables": list(tables), "since": str(since)})
        return answer, transaction.reads


def test_live_sql_hears_of_its_own_tables_only(desk):
    desk.write(lambda tx: [tx.insert("a", {"n": 1}), tx.insert("b", {"n": 1})])
    since = desk.now
    answer, reads = changed(desk, since, "A")
    assert answer is False
    log = WriteLog(desk.now)
    desk.engine.committer.listeners.append(lambda commits: [log.append(commit) for commit in commits])
    desk.write(lambda tx: tx.insert("b", {"n": 2}))
    assert log.first_hit(reads, since) is None
    assert changed(desk, since, "A")[0] is False
    desk.write(lambda tx: tx.insert("a", {"n": 2}))
    assert log.first_hit(reads, since) == desk.now
    assert changed(desk, since, "A")[0] is True
    assert changed(desk, desk.now, "A", "b")[0] is False


def test_live_sql_hears_of_changes_and_of_tables_that_appear(desk):
    one = desk.write(lambda tx: tx.insert("a", {"n": 1}))
    since = desk.now
    desk.write(lambda tx: tx.patch(one, {"n": 2}))
    assert changed(desk, since, "a")[0] is True
    since = desk.now
    desk.write(lambda tx: tx.delete(one))
    assert changed(desk, since, "a")[0] is True
    since = desk.now
    log = WriteLog(desk.now)
    desk.engine.committer.listeners.append(lambda commits: [log.append(commit) for commit in commits])
    answer, reads = changed(desk, since, "later")
    desk.write(lambda tx: tx.insert("later", {"n": 1}))
    assert (answer, log.first_hit(reads, since), changed(desk, since, "later")[0]) == (False, desk.now, True)
