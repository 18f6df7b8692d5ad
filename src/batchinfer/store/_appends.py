"""A table that is only appended to, each entry once: what runs leave behind beside their results.

A Delta table, or one in the database that holds the results.
"""

from __future__ import annotations

import pyarrow as pa

from batchinfer.core import files
from batchinfer.errors import StoreError, Transient
from batchinfer.spec import is_database
from batchinfer.store._delta_table import MOST_TURNS, opened, turns
from batchinfer.store._runs import absolute


def provide_appended(path: str, schema: pa.Schema) -> None:
    """Called before the work whose rows will be appended. In a database, where few may make tables, it is made now.

    Raises:
        StoreError: it is not there and may not be made, or this role may not append to it.
        Transient: the database cannot be reached.
    """
    if is_database(path):
        from batchinfer.store import _postgres_appends

        _postgres_appends.provide_appended(path, schema)


def append_once(path: str, rows: pa.Table, entry: str) -> None:
    """Append `rows` under the name `entry`; nothing happens where an entry of that name is there.

    The entry's name is an application transaction of the table, so of two writers of one entry, one is refused.

    Args:
        path: local path or URL of a Delta table, or `postgresql://…#schema.table`; made if there is none.
        rows: of the same schema at every call.
        entry: as the id of a run.

    Raises:
        StoreError: the table cannot be written, or has another schema.
        Transient: others append without a pause.
    """
    if is_database(path):
        from batchinfer.store import _postgres_appends

        _postgres_appends.append_once(path, rows, entry)
        return
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError, DeltaError

    path = absolute(path)
    app_id = f"batchinfer/{entry}"
    for _ in turns():
        try:
            table = opened(path)
            if table is not None and table.transaction_version(app_id) is not None:
                return
            write_deltalake(
                path if table is None else table,
                rows,
                mode="append",
                commit_properties=CommitProperties(
                    custom_metadata={"run_id": entry}, app_transactions=[Transaction(app_id, 1)]
                ),
            )
        except CommitFailedError:
            continue
        except (DeltaError, OSError) as e:
            raise StoreError(
                f"{path}: cannot append to the Delta table: {e}",
                next_step="check the permissions and the table's schema, then run again",
                table=path,
            ) from e
        else:
            return
    raise Transient(
        f"{path}: {MOST_TURNS} commits of others went first",
        next_step="run again: the rest is done",
        table=path,
    )


def read_appended(path: str) -> pa.Table | None:
    """All rows of such a table; None where there is none.

    Raises:
        StoreError: it cannot be read.
    """
    if is_database(path):
        from batchinfer.store import _postgres_appends

        return _postgres_appends.read_appended(path)
    from deltalake.exceptions import DeltaError
    from pyarrow import fs

    path = absolute(path)
    try:
        table = opened(path)
        if table is None:
            return None
        filesystem, root = files.locate(path)
        dataset = table.to_pyarrow_dataset(filesystem=fs.SubTreeFileSystem(root, filesystem))
        return dataset.to_table()
    except (DeltaError, OSError) as e:
        raise StoreError(f"{path}: cannot read the Delta table: {e}", table=path) from e
