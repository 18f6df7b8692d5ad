"""Sensitive columns: outside of scoring their values are a keyed hash, or nothing. See ADR 0013."""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.errors import SpecError

Handling = Literal["hash", "drop"]

HASH_SECRET = "BATCHINFER_HASH_SECRET"
"""The environment variable with the key of the hashes. It never travels: each worker reads its own environment."""
HASH_PREFIX = "hmac:"
HIDDEN = "(sensitive)"
"""What stands for a value that is dropped, where something must stand."""
_LEAST_CHARACTERS = 32
_HASH_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class Sensitive:
    """Which columns are sensitive, and what is kept of their values. Small, holds no secret, and pickles.

    A hash is `hmac:` and the first 128 bits of HMAC-SHA256 over the column's name and the value's text, in hex: the
    same value has the same hash in one column under one key, and another in another column. Null stays null.

    Attributes:
        columns: hash or drop, by column.
        key_id: names the key of the hashes, and does not tell it; None where no column is hashed.
        clear: kept columns that the results hold as they are.
    """

    columns: Mapping[str, Handling]
    key_id: str | None = None
    clear: frozenset[str] = frozenset()

    @classmethod
    def of(cls, columns: Mapping[str, Handling], clear: Collection[str] = ()) -> Self:
        """With the key of this process' environment.

        Raises:
            SpecError: a column is to be hashed, and there is no key, or a short one.
        """
        key_id = _key_id(_secret()) if "hash" in columns.values() else None
        return cls(dict(columns), key_id, frozenset(clear))

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __bool__(self) -> bool:
        return bool(self.columns)

    @property
    def dropped(self) -> frozenset[str]:
        """The columns of which nothing is kept."""
        return frozenset(name for name, handling in self.columns.items() if handling == "drop")

    @property
    def in_results(self) -> Sensitive:
        """The columns that are hidden in the results too."""
        hidden = {name: handling for name, handling in self.columns.items() if name not in self.clear}
        return replace(self, columns=hidden)

    def fields(self, fields: Collection[pa.Field]) -> tuple[pa.Field, ...]:
        """The fields of columns that are kept hidden: hashes are text, and what is dropped has none."""
        kept = (field for field in fields if field.name not in self.dropped)
        return tuple(pa.field(f.name, pa.string()) if f.name in self.columns else f for f in kept)

    def hide(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with hashes for values, and without what is dropped."""
        columns = {
            name: self.hashed(name, column) if name in self.columns else column
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
            if name not in self.dropped
        }
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def hide_table(self, table: pa.Table) -> pa.Table:
        """The same of a table."""
        empty = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in table.schema], schema=table.schema)
        return pa.Table.from_batches(
            [self.hide(batch) for batch in table.combine_chunks().to_batches() or [empty]]
        )

    def hashed(self, column: str, values: pa.Array) -> pa.Array:
        """The hashes of a column's values, as text; equal values are hashed once.

        Raises:
            SpecError: this process has another key, or none.
        """
        if pa.types.is_null(values.type):
            return pa.nulls(len(values), pa.string())
        if not pa.types.is_dictionary(values.type):
            values = _texts(values).dictionary_encode()
        elif values.dictionary.null_count:  # a value can also be null by way of its word
            values = _texts(values.dictionary_decode()).dictionary_encode()
        mac = self._mac(column)
        hashes = [_digest(mac, text) for text in _texts(values.dictionary).to_pylist()]
        return arrays.from_texts(hashes).take(values.indices)

    def shown(self, column: str, values: pa.Array) -> pa.Array:
        """What stands for a column's values where something must: hashes, or `(sensitive)` for what is dropped."""
        if column not in self.columns:
            return values
        return arrays.repeated(HIDDEN, len(values)) if column in self.dropped else self.hashed(column, values)

    def asked(self, column: str, text: str) -> str:
        """What to look for where values are hashed: a hash as it is, or the hash of a value that is given."""
        return text if text.startswith(HASH_PREFIX) else _digest(self._mac(column), text)

    def _mac(self, column: str) -> hmac.HMAC:
        secret = _secret()
        if (found := _key_id(secret)) != self.key_id:
            raise SpecError(
                f"{HASH_SECRET} is another key here than it was: its id is {found}, expected {self.key_id}",
                next_step="give all processes of a run, and those that read its output, the same key",
                expected=self.key_id,
                found=found,
            )
        return hmac.new(secret, f"{column}\0".encode(), "sha256")


NOTHING_SENSITIVE = Sensitive({})


def without_values(said: str) -> str:
    """What a library said of a failure, cut before it may quote a value: for messages about sensitive columns.

    Ours stay as they are, for they quote none: `null in 'age'`; of `the model failed: …` only the beginning is left.
    """
    return _FOREIGN.sub(r"\1", said)


_FOREIGN = re.compile(r"(the model failed|cannot score \d+ of \d+ rows)[:;].*", re.DOTALL)


def _secret() -> bytes:
    secret = os.environ.get(HASH_SECRET, "")
    if len(secret) < _LEAST_CHARACTERS:
        found = "is not set" if not secret else f"has {len(secret)} characters"
        raise SpecError(
            f"columns are to be hashed, but the environment variable {HASH_SECRET} {found}; "
            f"it needs {_LEAST_CHARACTERS} or more",
            next_step=f"make one key for the project with openssl rand -hex 32, and keep it in {HASH_SECRET}",
            variable=HASH_SECRET,
        )
    return secret.encode()


def _key_id(secret: bytes) -> str:
    return hmac.digest(secret, b"batchinfer: the id of this key", "sha256").hex()[:12]


def _digest(mac: hmac.HMAC, text: str) -> str:
    mac = mac.copy()
    mac.update(text.encode())
    return HASH_PREFIX + mac.hexdigest()[:_HASH_CHARACTERS]


def _texts(values: pa.Array) -> pa.Array:
    """Each value's text: the same for the same number in any width, and for text in any encoding."""
    try:
        if not pa.types.is_binary(values.type):
            return values.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # lists, structs and the like
    said = [None if value is None else json.dumps(value, default=str) for value in values.to_pylist()]
    return pa.array(said, pa.string())
