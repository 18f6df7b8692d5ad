"""Messages that name their schema in the registry, in Confluent's frame, and messages of one schema without a frame.

The frame is a zero byte and the schema's id in four bytes, the highest first; Protobuf's goes on with the path to the
message type within its file: a count and so many indexes as zigzag varints, or a single zero for the first type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchinfer.core import arrays
from batchinfer.errors import InputError, SpecError
from batchinfer.spec import FormatSpec
from batchinfer.streaming._ports import Decoded
from batchinfer.streaming.formats._columns import Columns, conform, kept_rows, misfit
from batchinfer.streaming.formats._cursors import ALL, Cursors, Payloads, zigzag
from batchinfer.streaming.formats._registry import SchemaRegistry

NO_VALUE = "the message has no value"
_NO_FRAME = "the value does not begin with the id of a schema (a zero byte and four more)"
_NO_PATH = "its id is not followed by the path to a message type, as Protobuf's is"
_DEEPEST = 16
"""Message types within message types."""
_MOST_KNOWN = 10_000

Written = tuple[int, tuple[int, ...]]
"""What a message was written with: the schema's id and, for Protobuf, the path to its type."""


class Reader(Protocol):
    """Reads messages of one schema."""

    @property
    def types(self) -> Mapping[str, pa.DataType | None]:
        """The fields' types; None where a field has no single one."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The fields that a later schema may leave out, and what they are then."""

    def read(self, payloads: Payloads) -> Columns:
        """The columns of so many messages."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A schema that messages are of, and the values of columns that it has no field for."""

    reader: Reader
    absent: dict[str, Any] = field(default_factory=dict)


class SchemaDecoder:
    """Decodes messages whose schema is stated elsewhere. Thread-safe.

    Args:
        schema: what the rows are to be.
        registry: where the messages' schemas are; None where all are of one, and have no frame.
        reader: makes the reader of what a message was written with. Raises InputError where it cannot be read.
        fixed: reads all messages, where there is no registry.
        indexed: whether frames hold a path to the message type.
    """

    def __init__(
        self,
        schema: pa.Schema,
        registry: SchemaRegistry | None,
        reader: Callable[[Written], Reader] | None = None,
        *,
        fixed: Reader | None = None,
        indexed: bool = False,
    ) -> None:
        self._schema = schema
        self._registry = registry
        self._reader = reader
        self._fixed = _Known(fixed) if fixed is not None else None
        self._indexed = indexed
        self._known: dict[Written, _Known | str] = {}

    def decode(self, values: pa.LargeBinaryArray) -> Decoded:
        """See `Decoder.decode`."""
        payloads = Payloads.of(values)
        rejected: dict[int, str] = {}
        there = np.arange(len(values))
        if (valid := arrays.valid(values)) is not None:
            rejected = dict.fromkeys(np.flatnonzero(~valid).tolist(), NO_VALUE)
            there = np.flatnonzero(valid)
        batches, rows = [], []
        for written, places, group in self._groups(payloads, there, rejected):
            known = self._fixed if written is None else self._known_as(written)
            if isinstance(known, str):
                rejected |= dict.fromkeys(places.tolist(), known)
                continue
            assert known is not None
            batch, refused = conform(known.reader.read(group), self._schema, len(group), known.absent)
            rejected |= {int(places[row]): reason for row, reason in refused.items()}
            kept = kept_rows(len(group), refused)
            batches.append(batch.take(arrays.from_numpy(kept)) if refused else batch)
            rows.append(places[kept])
        return joined(self._schema, batches, rows, rejected)

    def _groups(
        self, payloads: Payloads, rows: npt.NDArray[np.int64], rejected: dict[int, str]
    ) -> Iterator[tuple[Written | None, npt.NDArray[np.int64], Payloads]]:
        if self._registry is None:
            yield None, rows, payloads if len(rows) == len(payloads) else payloads.take(rows)
            return
        cursors = Cursors(payloads.take(rows))
        magic = cursors.fixed(ALL, "u1", "the frame")
        ids = cursors.fixed(ALL, ">i4", "the frame").astype(np.int64)
        cursors.fail(ALL, (magic != 0) | (ids < 0), _NO_FRAME)
        unframed = dict.fromkeys(cursors.failed, _NO_FRAME)
        paths = _paths(cursors) if self._indexed else np.zeros((len(rows), 0), np.int64)
        rejected |= {
            int(rows[row]): unframed.get(row) or f"schema {ids[row]}: {_NO_PATH}" for row in cursors.failed
        }
        framed = kept_rows(len(rows), cursors.failed)
        keys = np.column_stack([ids, paths])[framed]
        rest = Payloads(cursors.octets, cursors.at, cursors.end)
        if len(keys) and (keys == keys[0]).all():
            kinds, codes = keys[:1], np.zeros(len(keys), np.int64)
        else:
            kinds, codes = np.unique(keys, axis=0, return_inverse=True)
        for code, kind in enumerate(kinds.tolist()):
            places = framed[codes.reshape(-1) == code]
            path = tuple(index for index in kind[1:] if index >= 0)
            yield (kind[0], path), rows[places], rest.take(places)

    def _known_as(self, written: Written) -> _Known | str:
        """What reads the messages of a schema, or why they are refused."""
        if written not in self._known:
            if len(self._known) >= _MOST_KNOWN:  # whoever sends noise must not fill the memory
                self._known.clear()
            try:
                self._known[written] = self._judged(written)
            except InputError as e:
                if "schema_id" in e.fields:  # unknown now, perhaps known later
                    return e.message
                self._known[written] = e.message
        return self._known[written]

    def _judged(self, written: Written) -> _Known | str:
        assert self._registry is not None and self._reader is not None
        number, path = written
        reader = self._reader(written)
        absent: dict[str, Any] = {}
        if missing := set(self._schema.names) - reader.types.keys():
            for sibling in self._registry.siblings(number):
                with suppress(InputError):
                    defaults = self._reader((sibling, path)).defaults
                    absent |= {name: defaults[name] for name in missing - absent.keys() if name in defaults}
        needed = pa.schema([each for each in self._schema if each.name not in absent])
        if why := misfit(reader.types, needed):
            return f"{self._registry.named(number)}: {why}"
        return _Known(reader, absent)


def _paths(cursors: Cursors) -> npt.NDArray[np.int64]:
    """The path to each message's type; -1 after its end."""
    counts = zigzag(cursors.varints(ALL, "the frame"))
    cursors.fail(ALL, (counts < 0) | (counts > _DEEPEST), _NO_PATH)
    paths = np.full((len(counts), _DEEPEST), -1, np.int64)
    paths[counts == 0, 0] = 0
    for place in range(_DEEPEST):
        deeper = np.flatnonzero(counts > place)
        if not len(deeper):
            break
        indexes = zigzag(cursors.varints(deeper, "the frame"))
        cursors.fail(deeper, indexes < 0, _NO_PATH)
        paths[deeper, place] = indexes
    return paths


def joined(
    schema: pa.Schema,
    batches: list[pa.RecordBatch],
    rows: list[npt.NDArray[np.int64]],
    rejected: Mapping[int, str],
) -> Decoded:
    """Rows that were decoded group by group, in the order of their messages."""
    order = np.concatenate([*rows, np.empty(0, np.int64)])
    if len(batches) == 1:
        columns = batches[0].columns
    else:
        parts = zip(*(batch.columns for batch in batches), strict=True) if batches else [()] * len(schema)
        sorting = np.argsort(order, kind="stable")
        order = order[sorting]
        columns = [
            pa.concat_arrays([pa.nulls(0, field.type), *each]).take(arrays.from_numpy(sorting))
            for field, each in zip(schema, parts, strict=True)
        ]
    return Decoded(pa.RecordBatch.from_arrays(columns, schema=schema), order, sorted(rejected.items()))


def decoder_of_file(
    schema: pa.Schema, spec: FormatSpec, folder: Path, what: str, reader: Callable[[str, bytes], Reader]
) -> SchemaDecoder:
    """A decoder of messages without a frame, all written with the schema of a file.

    Args:
        what: the file, in words. reader: makes the reader from its name and content; raises InputError.

    Raises:
        SpecError: no file is stated, it cannot be read, or its messages make no such rows.
    """
    if spec.schema_file is None:
        raise SpecError(
            f"stream.format: {spec.kind} needs a registry, or a schema_file ({what})",
            next_step="state one of them",
        )
    file = folder / spec.schema_file
    try:
        fixed = reader(str(file), file.read_bytes())
    except OSError as e:
        raise SpecError(
            f"{file}: cannot read the file that 'stream.format.schema_file' names: {e.strerror}",
            path=str(file),
        ) from e
    except InputError as e:
        raise SpecError(e.message, next_step=e.next_step, path=str(file)) from e
    if why := misfit(fixed.types, schema):
        raise SpecError(f"{file}: {why}", path=str(file))
    return SchemaDecoder(schema, None, fixed=fixed)
