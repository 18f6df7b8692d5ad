"""One transaction in PostgreSQL: Arrow in and out by COPY, and the driver's errors as ours.

The driver is ADBC's: it turns Arrow batches into binary COPY, and back, in C++.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa

from batchinfer.errors import BatchinferError, StoreError, Transient, needs

_SETTINGS = {
    "client_encoding": "UTF8",
    # A client that vanished must not hold a fence for the two hours that TCP would give it.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "lock_timeout": "10min",
}
_TRY_AGAIN = ("08", "40", "53300", "55P03", "57P")
"""SQLSTATE classes: connection lost, deadlock, no connection or lock to be had, the server goes down."""
_NO_ANSWER_YET = ("starting up", "shutting down", "too many", "recovery mode", "connection slots")
_WRONG_WORDS = (
    "FATAL",
    "invalid ",
    "no password supplied",
    "does not support SSL",
    "certificate",
    "definition of service",
    "end of string reached",
)
"""By these words the server refuses a connection, or libpq the address: the same would be refused again."""
NO_SUCH_TEXT = "22021"
"""SQLSTATE of text with a NUL character, or that is not UTF-8."""


class Session:
    """A connection with one transaction on it. What was not committed is gone at its end."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: str, *parameters: Any) -> None:
        """Run a statement that gives no rows."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement, parameters or None)

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """The rows of a small answer."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(query, parameters or None)
            found: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
            return found

    def value(self, query: str, *parameters: Any) -> Any:
        """The one value of an answer of one row."""
        return next(iter(self.rows(query, *parameters)[0].values()))

    def stream(self, query: str, parameters: pa.RecordBatch | None = None) -> Generator[pa.RecordBatch]:
        """The rows of an answer of any size, in batches of some 16 MB."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(query, parameters)
            with closing(cursor.fetch_record_batch()) as reader:
                yield from reader

    def copy(self, table: str, rows: pa.RecordBatchReader, schema: str | None) -> int:
        """Append rows to a table by binary COPY; without `schema`, to a temporary one. Returns how many."""
        with closing(self._connection.cursor()) as cursor:
            where: dict[str, Any] = {"db_schema_name": schema} if schema is not None else {"temporary": True}
            return int(cursor.adbc_ingest(table, rows, mode="append", **where))

    def commit(self) -> None:
        """Make all of it so."""
        self._connection.commit()


@contextmanager
def session(url: str, application: str) -> Iterator[Session]:
    """A transaction that reads what was committed before each of its statements.

    Raises:
        MissingExtra: the driver is not installed.
        Exception: the driver's own; see `translated`.
    """
    dbapi = _driver()
    with closing(dbapi.connect(url)) as connection:
        opened = Session(connection)
        opened.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        settings = {**_SETTINGS, "application_name": application}
        calls = ", ".join(f"set_config('{name}', ${i + 1}, true)" for i, name in enumerate(settings))
        opened.rows(f"SELECT {calls}", *settings.values())
        yield opened


@contextmanager
def translated(table: str, doing: str) -> Iterator[None]:
    """Say what a failed statement means: on which table, what PostgreSQL said, and what to do.

    Raises:
        Transient: the server cannot be reached, or wants the transaction to be tried again.
        StoreError: anything else.
    """
    try:
        yield
    except BatchinferError:
        raise
    except Exception as e:
        raise meaning(table, doing, e) from e


@contextmanager
def at_work(table: str, doing: str, url: str, application: str) -> Iterator[Session]:
    """A `session` for one thing that is done with a table, whose errors are `translated`."""
    with translated(table, doing), session(url, application) as opened:
        yield opened


def wait_for_others(opened: Session, table: str) -> None:
    """Of two that make a table, by its name in SQL, or append one entry, the second waits here, and finds it there."""
    opened.rows("SELECT 1 AS one FROM pg_advisory_xact_lock(hashtextextended($1, 0))", table)


def meaning(table: str, doing: str, error: Exception) -> BatchinferError:
    """An error of ours for the driver's."""
    state, said = sqlstate(error), said_by(error)
    message = f"{table}: cannot {doing} the table: {said}"
    if _passes(state, said, error):
        return Transient(
            message,
            next_step="run again when the database answers: staged units are reused",
            table=table,
            reason=said,
            sqlstate=state,
        )
    steps = {
        "42501": "grant it to this role: docs/postgres.md lists what a run needs",
        "53100": "free some space and run again: staged units are reused",
    }
    step = steps.get(
        state, "check output.path, PGUSER, PGPASSWORD (or ~/.pgpass) and the grants, then run again"
    )
    return StoreError(message, next_step=step, table=table, reason=said, sqlstate=state)


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's code for what is wrong; "" where the server said nothing."""
    return getattr(error, "sqlstate", None) or ""


def said_by(error: BaseException) -> str:
    """What the server (or libpq) said, on one line."""
    details: Sequence[tuple[str | bytes, bytes]] = getattr(error, "details", None) or ()
    told: Mapping[str, str] = {_text(name): _text(value) for name, value in details}
    parts = [told.get(name, "") for name in ("PG_DIAG_MESSAGE_PRIMARY", "PG_DIAG_MESSAGE_DETAIL")]
    line = " / ".join(part for part in parts if part)
    plain = str(error).partition("[libpq] ")[2] or str(error)
    return line or " ".join(plain.split()) or type(error).__name__


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _passes(state: str, said: str, error: Exception) -> bool:
    if state:
        return state.startswith(_TRY_AGAIN)
    if not isinstance(error, _driver().OperationalError):
        return False
    # libpq gives no code where there is no connection.
    refused = "Failed to connect" in str(error) and any(word in said for word in _WRONG_WORDS)
    return not refused or any(word in said for word in _NO_ANSWER_YET)


def _driver() -> Any:
    with needs("postgres", "the postgres store"):
        from adbc_driver_postgresql import dbapi
    return dbapi
