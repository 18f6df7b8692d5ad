"""What is PostgreSQL's own: types, names, rights, keys, and a COMMIT whose answer never comes."""

from __future__ import annotations

import datetime as dt
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.postgres import execute, table_path
from tests.postgres import table as query

from batchinfer.core import LINEAGE, Partition
from batchinfer.errors import CommitRefused, CommitUnknown, StoreError, Transient
from batchinfer.store import PartWriter, append_once, open_store, read_appended
from batchinfer.store import _postgres as adapter
from batchinfer.store._postgres import PostgresStore
from batchinfer.testing import Fault, table_digest, tripping
from batchinfer.testing._store_runs import SCHEMA, WHOLE, day, info, ours, run, seen, stage

RUNNER = "runner"
DAY = day("d1")


@pytest.fixture
def path(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table that is not there yet; its runs stage below `tmp_path`."""
    monkeypatch.setenv("BATCHINFER_STAGING", str(tmp_path))
    return table_path(postgres_url, tmp_path)


def opened(path: str, by: tuple[str, ...] = ("ds",), **options: Any) -> PostgresStore:
    return PostgresStore(path, by, "suite", **options)


def lineage(rows: int, run_id: str = "run1") -> list[pa.Array]:
    labels = [
        pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [t]) for t in ("m@1", run_id, "in.parquet")
    ]
    return [*labels, pa.array(np.arange(rows))]


def rows_of(columns: dict[str, pa.Array], run_id: str = "run1") -> pa.Table:
    arrays = [*columns.values()]
    fields = [pa.field(name, array.type) for name, array in columns.items()]
    return pa.table([*arrays, *lineage(len(arrays[0]), run_id)], schema=pa.schema([*fields, *LINEAGE]))


def write(store: Any, rows: pa.Table, run_id: str = "run1", partition: Partition = DAY) -> int:
    """A whole run, staged as workers stage."""
    fence = store.begin(run_id, rows.schema, [partition])
    writer = PartWriter(store.staging(run_id), partition, f"part-00000-{run_id}-a", rows.schema, ())
    for batch in rows.to_batches():
        writer.write(batch)
    part = writer.finish()
    version: int = store.commit(fence, [(partition, part)] if part else [], info(run_id))
    return version


# Types

NAN_BITS = np.array([0x7FC00001, 0xFFC12345, 0x80000000], np.uint32).view(np.float32)
INSTANTS = [dt.datetime(1, 1, 1), None, dt.datetime(9999, 12, 31, 23, 59, 59, 999_999)]
MONEY = [Decimal("1.0000000001"), None, Decimal("-9999999999999999999999999999.9999999999")]
VALUES = {
    "tiny": pa.array([-128, None, 127], pa.int8()),
    "small": pa.array([-(2**15), None, 5], pa.int16()),
    "int": pa.array([-(2**31), None, 5], pa.int32()),
    "big": pa.array([-(2**63), None, 2**63 - 1], pa.int64()),
    "float": pa.array(NAN_BITS),
    "double": pa.array([float("inf"), None, -0.0]),
    "flag": pa.array([True, None, False]),
    "text": pa.array(["", 'ä日\t\n\\N"', None]),
    "bytes": pa.array([b"\0x", None, b""]),
    "date": pa.array([dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]),
    "money": pa.array(MONEY, pa.decimal128(38, 10)),
    "local": pa.array(INSTANTS, pa.timestamp("us")),
    "instant": pa.array(INSTANTS, pa.timestamp("us", "Europe/Berlin")),
    "floats": pa.array([[1.5, None], None, []], pa.list_(pa.float32())),
    "texts": pa.array([["a", "", None, '"{,'], None, []], pa.list_(pa.string())),
    "monies": pa.array([[Decimal("1.25"), None], None, []], pa.list_(pa.decimal128(10, 2))),
    "flags": pa.array([[True, False], None, []], pa.list_(pa.bool_())),
    "instants": pa.array([[INSTANTS[0], None], None, []], pa.list_(pa.timestamp("us", "UTC"))),
}
READ_AS = {"tiny": pa.int16(), "instant": pa.timestamp("us", "UTC")}


def test_every_type_comes_back_bit_for_bit(path: str) -> None:
    store = opened(path)
    rows = rows_of(VALUES)
    write(store, rows)
    expected = rows.append_column("ds", pa.array(["d1"] * 3))
    for name, kind in READ_AS.items():
        place = expected.schema.get_field_index(name)
        expected = expected.set_column(place, name, expected[name].cast(kind))
    assert table_digest(store) == table_digest(expected)
    write(store, rows, "run2")  # and what was read from the table is what the next run brings


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nested", pa.list_(pa.list_(pa.int64()))),
        ("half", pa.decimal128(5, -2)),
        ("ä" * 32, pa.int64()),
    ],
)
def test_a_column_that_postgres_cannot_hold_is_refused_before_any_work(
    path: str, name: str, kind: pa.DataType
) -> None:
    with pytest.raises(StoreError, match=f"'{name}'"):
        opened(path).begin("run1", pa.schema([pa.field(name, kind), *LINEAGE]), [day("d1")])


@pytest.mark.parametrize("nested", [False, True])
def test_text_with_a_nul_is_refused_by_row_and_nothing_changes(path: str, nested: bool) -> None:
    store = opened(path)
    texts: list[Any] = ["fine", "a\0b", "fine"]
    column = pa.array([[t, "x"] for t in texts]) if nested else pa.array(texts)
    with pytest.raises(StoreError, match=r"column 'note' of in\.parquet, row 1, holds a NUL") as refused:
        write(store, rows_of({"note": column}))
    assert (refused.value.fields["source"], refused.value.fields["position"]) == ("in.parquet", 1)
    assert ours(store) == []


def test_a_column_that_others_changed_since_the_beginning_is_refused_at_the_commit(
    path: str, postgres_url: str
) -> None:
    store = opened(path)
    run(store, "run1", {day("d1"): range(3)})
    fence = store.begin("run2", SCHEMA, [day("d1")])
    parts = stage(store, "run2", {day("d1"): range(5)})
    table = path.partition("#")[2]
    execute(
        postgres_url, f"ALTER TABLE {table} ALTER id TYPE timestamp USING NULL"
    )  # as many bytes as a bigint
    with pytest.raises(StoreError, match="'id'"):
        store.commit(fence, parts, info("run2"))


# Names


def test_names_of_any_kind_are_taken_as_they_are(path: str, postgres_url: str, tmp_path: Path) -> None:
    execute(postgres_url, 'CREATE SCHEMA IF NOT EXISTS "odd; ""schema"')
    odd = ['drop table "x"; --', "select", "a b", "ÄÖ", "it's", "$1"]
    store = opened(f'{postgres_url}#odd; "schema.{tmp_path.name[:9]} "ta\'ble"', by=("Group By",))
    rows = rows_of({name: pa.array([1, 2]) for name in odd})
    where = (("Group By", "it's"),)
    write(store, rows, partition=where)
    write(store, rows, "run2", partition=where)
    assert store.dataset().schema.names == [*rows.schema.names, "Group By"]
    assert store.find({"a b": pa.scalar(2), "Group By": pa.scalar("it's")}).num_rows == 1


@pytest.mark.parametrize(
    "path",
    [
        "postgresql://host/db",
        "postgresql://host/db#",
        "/results/scores",
        "postgresql://host/db#a." + "x" * 60,
    ],
)
def test_a_path_that_names_no_table_is_refused(path: str) -> None:
    with pytest.raises(StoreError) as refused:
        opened(path)
    assert refused.value.next_step


@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter2@host/db#t", "postgresql://host/db?password=hunter2#t"]
)
def test_a_password_in_the_path_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreError, match="PGPASSWORD") as refused:
        open_store("postgres", url, ["ds"], "suite")
    assert "hunter2" not in str(refused.value) + repr(refused.value.fields)


# Whom it reaches, and what it may


def test_a_server_that_is_not_there_is_transient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("BATCHINFER_STAGING", str(tmp_path))
    with pytest.raises(Transient, match="refused") as caught:
        opened("postgresql://127.0.0.1:1/db#t").begin("run1", SCHEMA, [day("d1")])
    assert "hunter2" not in str(caught.value) + repr(caught.value.fields)


@pytest.mark.parametrize(
    "option", ["nonsense=1", "sslmode=require", "sslmode=bogus", "connect_timeout=x", "service=none"]
)
def test_an_address_that_can_never_serve_is_not_tried_again(path: str, option: str) -> None:
    url, _, name = path.partition("#")
    with pytest.raises(StoreError, match="Failed to connect"):
        opened(f"{url}?{option}#{name}").begin("run1", SCHEMA, [day("d1")])


@pytest.mark.parametrize(("user", "database"), [("nobody_knows", "postgres"), ("batch", "nowhere")])
def test_a_server_that_refuses_is_not(path: str, user: str, database: str) -> None:
    there = urlsplit(path)
    with pytest.raises(StoreError, match="does not exist"):
        opened(f"postgresql://{user}@{there.hostname}:{there.port}/{database}#t").begin(
            "run1", SCHEMA, [day("d1")]
        )


def test_a_role_that_may_run_and_not_create_is_told_what_its_owner_is_to_do(
    path: str, postgres_url: str
) -> None:
    execute(postgres_url, f"DROP ROLE IF EXISTS {RUNNER}", f"CREATE ROLE {RUNNER} LOGIN")
    store = opened(path.replace("//batch@", f"//{RUNNER}@"))
    with pytest.raises(StoreError, match=f'{RUNNER} lacks CREATE on the schema "public"') as refused:
        store.begin("run1", SCHEMA, [day("d1")])
    assert "docs/postgres.md" in refused.value.next_step
    execute(postgres_url, *refused.value.fields["statements"])
    with pytest.raises(StoreError, match="SELECT on"):
        store.begin("run1", SCHEMA, [day("d1")])
    table = path.partition("#")[2]
    execute(
        postgres_url,
        f"GRANT SELECT, INSERT, DELETE ON {table} TO {RUNNER}",
        f"GRANT SELECT, INSERT ON {table}_commits TO {RUNNER}",
        f"GRANT SELECT, INSERT, UPDATE ON {table}_fence TO {RUNNER}",
    )
    run(store, "run1", {day("d1"): range(5)})
    run(store, "run2", {day("d1"): range(7)})
    assert seen(store) == {("d1", "run2"): 7}
    widened = opened(path.replace("//batch@", f"//{RUNNER}@"), widens=True)
    with pytest.raises(StoreError, match='ADD COLUMN IF NOT EXISTS "more" text'):
        widened.begin("run3", SCHEMA.append(pa.field("more", pa.string())), [day("d1")])
    elsewhere = opened(path.replace("#public.", "#nowhere."))
    with pytest.raises(StoreError, match='there is no schema "nowhere"'):
        elsewhere.begin("run4", SCHEMA, [day("d1")])
    execute(postgres_url, f"DROP OWNED BY {RUNNER}", f"DROP ROLE {RUNNER}")


# What readers get


def test_rows_are_read_in_bounded_batches_and_as_datasets_are(path: str) -> None:
    store = opened(path)
    ids = np.arange(400_000)
    write(
        store,
        rows_of({"id": pa.array(ids), "score": pa.array(ids / 7), "note": pa.array(["x" * 40] * len(ids))}),
    )
    found = store.dataset()
    batches = [batch.num_rows for batch in found.to_batches()]
    assert sum(batches) == found.count_rows() == len(ids)
    assert len(batches) > 1
    next(iter(found.to_batches()))  # one that is not read to its end
    few = found.to_table(columns=["score"], filter=pc.field("id") < 5)
    assert sorted(few["score"].to_pylist()) == list(ids[:5] / 7)
    assert found.count_rows(filter=pc.field("id") < 5) == 5
    assert found.to_table(columns=["id"]).column_names == ["id"]
    assert store.find({"id": pa.scalar(77), "ds": pa.scalar("d1")}).to_pylist()[0]["score"] == 11


def test_columns_that_others_added_are_read_as_text(path: str, postgres_url: str) -> None:
    store = opened(path)
    run(store, "run1", {day("d1"): range(1)})
    execute(postgres_url, f"ALTER TABLE {path.partition('#')[2]} ADD extra jsonb DEFAULT '{{\"a\": 1}}'")
    assert store.dataset().to_table(["extra"]).to_pylist() == [{"extra": '{"a": 1}'}]


def test_there_is_no_table_before_the_first_commit(path: str) -> None:
    store = opened(path)
    store.begin("run1", SCHEMA, [day("d1")])
    assert not store.exists()
    with pytest.raises(StoreError, match="no table"):
        store.dataset()


def test_rows_that_somebody_deleted_do_not_count_as_committed(path: str, postgres_url: str) -> None:
    store = opened(path)
    run(store, "run1", {day("d1"): range(5), day("d2"): range(5)})
    execute(postgres_url, f"DELETE FROM {path.partition('#')[2]} WHERE ds = 'd1' AND id = 3")
    assert store.committed("run1", [day("d1")]) is None
    assert store.committed("run1", [day("d2")]) is not None
    run(store, "run1", {day("d1"): range(5)})
    assert seen(store) == {("d1", "run1"): 5, ("d2", "run1"): 5}


def test_a_trigger_that_swallows_rows_stops_the_commit(path: str, postgres_url: str) -> None:
    store = opened(path)
    run(store, "run1", {day("d1"): range(5)})
    table = path.partition("#")[2]
    execute(
        postgres_url,
        "CREATE OR REPLACE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF new.id = 2 THEN RETURN NULL; END IF; RETURN new; END'",
        f"CREATE TRIGGER swallowing BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION swallow()",
    )
    with pytest.raises(StoreError, match="4 rows arrived of 5"):
        run(store, "run2", {day("d1"): range(5)})
    assert seen(store) == {("d1", "run1"): 5}


def test_a_table_that_widens_takes_new_columns_and_rows_without_old_ones(path: str) -> None:
    store = opened(path, widens=True)
    write(store, rows_of({"id": pa.array([1]), "old": pa.array(["o"])}))
    write(store, rows_of({"id": pa.array([2]), "new": pa.array([[1.5]])}, "run2"), "run2", day("d2"))
    found = store.dataset().to_table().sort_by("id").select(["id", "old", "new"]).to_pylist()
    assert found == [{"id": 1, "old": "o", "new": None}, {"id": 2, "old": None, "new": [1.5]}]
    with pytest.raises(StoreError, match="'new'"):
        store.begin("run3", pa.schema([pa.field("new", pa.string()), *LINEAGE]), [day("d3")])


def test_a_table_that_widens_holds_what_postgres_has_no_type_for_as_json(path: str) -> None:
    store = opened(path, widens=True)
    write(store, rows_of({"nested": pa.array([[[1], [2, None]], None])}))
    assert store.dataset().to_table(["nested"])["nested"].to_pylist() == ["[[1], [2, null]]", None]
    store.begin("run2", rows_of({"nested": pa.array([[[1]]])}).schema, [day("d2")])


# One key, one row


def by_key(store: Any) -> dict[int, tuple[str, float]]:
    found = store.dataset().to_table(["id", "_run_id", "score"]).to_pylist()
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: (row["_run_id"], row["score"]) for row in found}


def keyed(ids: list[int], score: float, run_id: str) -> pa.Table:
    return rows_of({"id": pa.array(ids, pa.int64()), "score": pa.array([score] * len(ids))}, run_id)


def test_an_upsert_takes_rows_over_and_a_partition_holds_its_last_run(path: str) -> None:
    store = opened(path, upsert=("id",))
    write(store, keyed([1, 2, 3], 0.1, "run1"), "run1", day("d1"))
    write(store, keyed([3, 4], 0.2, "run2"), "run2", day("d2"))
    assert by_key(store) == {1: ("run1", 0.1), 2: ("run1", 0.1), 3: ("run2", 0.2), 4: ("run2", 0.2)}
    assert store.committed("run1", [day("d1")]) is not None
    write(store, keyed([2, 5], 0.3, "run3"), "run3", day("d1"))
    assert by_key(store) == {2: ("run3", 0.3), 3: ("run2", 0.2), 4: ("run2", 0.2), 5: ("run3", 0.3)}
    assert [commit["operation"] for commit in store.history(1)] == ["upsert"]


def test_an_upsert_into_a_table_without_partitions_keeps_the_rows_that_a_run_does_not_bring(
    path: str,
) -> None:
    store = opened(path, by=(), upsert=("id",))
    write(store, keyed([1, 2], 0.1, "run1"), "run1", WHOLE)
    write(store, keyed([2, 3], 0.2, "run2"), "run2", WHOLE)
    assert by_key(store) == {1: ("run1", 0.1), 2: ("run2", 0.2), 3: ("run2", 0.2)}


def test_a_key_that_comes_twice_is_named_and_nothing_changes(path: str) -> None:
    store = opened(path, upsert=("id",))
    write(store, keyed([1], 0.1, "run1"))
    with pytest.raises(StoreError, match=r"one key \(id\) comes 2 times .* row 1, and in\.parquet, row 2"):
        write(store, keyed([6, 7, 7], 0.2, "run2"), "run2")
    assert by_key(store) == {1: ("run1", 0.1)}


def test_an_upsert_without_a_unique_index_is_refused_before_any_work(path: str) -> None:
    run(opened(path), "run1", {day("d1"): range(3)})
    with pytest.raises(StoreError, match="no unique index") as refused:
        opened(path, upsert=("id",)).begin("run2", SCHEMA, [day("d1")])
    assert "ADD PRIMARY KEY" in refused.value.next_step


def test_racing_upserts_of_one_partition_meet_at_its_fence(path: str) -> None:
    store = opened(path, upsert=("id",))
    fence = store.begin("run1", SCHEMA, [day("d1")])
    run(store, "run2", {day("d1"): range(5)})
    with pytest.raises(CommitRefused, match="run2"):
        store.commit(fence, stage(store, "run1", {day("d1"): range(3)}), info("run1"))


# Transactions


def test_a_server_that_isolates_more_strictly_by_default_refuses_as_any_other(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_isolation=serializable")
    store = opened(path)
    run(store, "run0", {day("d1"): range(3)})
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})
    started, release = threading.Event(), threading.Event()

    def linger() -> None:
        started.set()
        assert release.wait(60)

    with ThreadPoolExecutor(2) as pool, tripping(Fault("batchinfer.store._postgres:_end"), linger):
        winner = pool.submit(run, store, "run2", {day("d1"): range(5)})
        assert started.wait(60)
        loser = pool.submit(
            store.commit, fence, parts, info("run1")
        )  # waits for the winner's row of the fence
        release.set()
        winner.result(60)
        with pytest.raises(CommitRefused, match="run2"):
            loser.result(60)


class Proxy:
    """Between a client and the server, and gone for the client as soon as it has passed COMMIT on."""

    def __init__(self, url: str) -> None:
        there = urlsplit(url)
        self._target = (there.hostname, there.port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = url.replace(f":{there.port}/", f":{port}/")
        self._open: list[socket.socket] = []
        self.cuts = 1
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, outwards: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                if outwards and self.cuts and b"COMMIT\0" in data:
                    self.cuts -= 1
                    source.shutdown(socket.SHUT_RDWR)
                    return  # the server's side stays open, so it notices nothing
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side is gone

    def close(self) -> None:
        self._listening.close()
        for one in self._open:
            one.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_commit_whose_answer_is_lost_is_waited_for_and_asked_for(
    path: str, postgres_url: str, tmp_path: Path, fails: bool
) -> None:
    """The connection breaks after COMMIT went out, and the server takes two more seconds to do or refuse it."""
    run(opened(path), "before", {day("d1"): range(9)})
    table = path.partition("#")[2]
    slow = f"slow_{tmp_path.name.replace('-', '_')}"
    ending = "RAISE EXCEPTION 'no';" if fails else ""
    execute(
        postgres_url,
        f'CREATE FUNCTION "{slow}"() RETURNS trigger LANGUAGE plpgsql AS '
        f"$$BEGIN PERFORM pg_sleep(2); {ending} RETURN NULL; END$$",
        f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {table}_commits DEFERRABLE INITIALLY DEFERRED "
        f'FOR EACH ROW EXECUTE FUNCTION "{slow}"()',
    )
    proxy = Proxy(postgres_url)
    try:
        store = opened(path.replace(postgres_url, proxy.url), staging=str(tmp_path))
        fence = store.begin("run1", SCHEMA, [day("d1")])
        parts = stage(store, "run1", {day("d1"): range(20)})
        if fails:
            with pytest.raises(Transient):
                store.commit(fence, parts, info("run1"))
        else:
            version = store.commit(fence, parts, info("run1"))
            assert store.committed("run1", [day("d1")]) == (version, info("run1"))
        assert proxy.cuts == 0
    finally:
        proxy.close()
    assert seen(opened(path)) == ({("d1", "before"): 9} if fails else {("d1", "run1"): 20})


def test_when_the_server_cannot_be_asked_the_outcome_is_unknown(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path)
    run(store, "before", {day("d1"): range(9)})
    fence = store.begin("run1", SCHEMA, [day("d1")])
    parts = stage(store, "run1", {day("d1"): range(20)})

    def unreachable(*_: object) -> None:
        raise OSError("unreachable")

    def fail_and_vanish() -> None:
        monkeypatch.setattr(adapter, "session", unreachable)
        raise OSError("the connection broke")

    monkeypatch.setattr(adapter, "_PATIENCE_SECONDS", 0.5)
    lost = tripping(Fault("batchinfer.store._postgres:_end", "after"), fail_and_vanish)
    with lost, pytest.raises(CommitUnknown, match=r"the connection broke.*unreachable") as unknown:
        store.commit(fence, parts, info("run1"))
    assert unknown.value.exit_code == 75
    monkeypatch.undo()
    monkeypatch.setenv("BATCHINFER_STAGING", str(Path(store.staging("run1").parts).parents[2]))
    assert store.commit(fence, parts, info("run1")) == store.history(1)[0]["version"]
    assert seen(store) == {("d1", "run1"): 20}


def test_a_session_that_the_server_ends_during_a_commit_is_transient(path: str, postgres_url: str) -> None:
    store = opened(path)
    run(store, "before", {day("d1"): range(9)})

    def end_sessions() -> None:
        query(
            postgres_url,
            "SELECT pg_terminate_backend(pid) AS x FROM pg_stat_activity WHERE application_name LIKE 'batchinfer%'",
        )

    ended = tripping(Fault("batchinfer.store._postgres:PostgresStore._replace"), end_sessions)
    with ended, pytest.raises(Transient, match="terminating connection"):
        run(store, "run1", {day("d1"): range(20)})
    assert seen(store) == {("d1", "before"): 9}
    run(store, "run1", {day("d1"): range(20)})


# What is appended


def test_an_entry_is_appended_once_however_many_try(path: str) -> None:
    assert read_appended(path) is None
    rows = pa.table(
        {"run_id": ["r1", "r1"], "psi": [0.5, None], "at": pa.array([0, 1], pa.timestamp("us", "UTC"))}
    )
    append_once(path, rows, "r1")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda entry: append_once(path, rows, entry), ["r1", "r2", "r2", "r2"]))
    found = read_appended(path)
    assert found is not None
    assert found.schema.equals(rows.schema)
    assert found.num_rows == 4


def test_a_history_of_other_columns_is_refused(path: str) -> None:
    append_once(path, pa.table({"run_id": ["r1"]}), "r1")
    with pytest.raises(StoreError, match="append to"):
        append_once(path, pa.table({"other": ["r1"]}), "r2")
