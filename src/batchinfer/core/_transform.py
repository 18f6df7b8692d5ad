"""A pipeline's transform: loaded from its file, and held to its contract on every batch."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Self

import pyarrow as pa

from batchinfer.core import views
from batchinfer.errors import InputError, TransformError

TransformFunction = Callable[[pa.RecordBatch], pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class TransformSource:
    """A transform as text, for workers that do not see its file. `name` is the spec's `FILE.py:FUNCTION`."""

    name: str
    file: str
    text: str

    @classmethod
    def read(cls, file: Path, name: str) -> Self:
        """Read the file.

        Raises:
            TransformError: there is none, or it is no text.
        """
        try:
            return cls(name, str(file), file.read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise TransformError(f"transform: no such file: {file}", path=str(file)) from e
        except (OSError, UnicodeDecodeError) as e:
            raise TransformError(f"transform: cannot read {file}: {e}", path=str(file)) from e

    def load(self) -> Transform:
        """Run the text as a module, and take the function that `name` states.

        Raises:
            TransformError: it raised, or has no such function.
        """
        function_name = self.name.rpartition(":")[2]
        module_name = f"batchinfer_transform_{sha256((self.file + self.text).encode()).hexdigest()[:12]}"
        module = ModuleType(module_name)
        module.__file__ = self.file
        sys.modules[module_name] = module
        # A traceback shows its lines also where there is no such file.
        linecache.cache[self.file] = (len(self.text), None, self.text.splitlines(keepends=True), self.file)
        try:
            exec(compile(self.text, self.file, "exec"), module.__dict__)  # the user's own code
        except (Exception, SystemExit) as e:
            raise TransformError(
                f"transform: importing {self.file} raised {type(e).__name__}: {e}", path=self.file
            ) from e
        function = getattr(module, function_name, None)
        if not callable(function):
            raise TransformError(f"transform: {self.file} has no function '{function_name}'", path=self.file)
        return Transform(self.name, function, self)


class Transform:
    """An Arrow → Arrow function of the pipeline's own, for what cannot live in the ONNX graph.

    The function is called once for each batch, from many threads at a time, with all columns of the input
    (and on no rows at all, never). It returns the model's columns as a RecordBatch or Table: as many rows,
    in the same order, always of the same schema.

    Args:
        name: as the spec states it, `features.py:build`.
        function: the function itself.
        source: the text that it comes from; None for a function that lives in this process alone.
    """

    def __init__(self, name: str, function: TransformFunction, source: TransformSource | None = None) -> None:
        self.name = name
        self.source = source
        self._function = function
        self._schema: pa.Schema | None = None

    @classmethod
    def load(cls, file: Path, name: str) -> Transform:
        """Import the file and take the function that `name` (`FILE.py:FUNCTION`) states.

        Raises:
            TransformError: no such file or function, or importing it failed.
        """
        return TransformSource.read(file, name).load()

    def __call__(self, batch: pa.RecordBatch, where: str, *, quotes: bool = True) -> pa.RecordBatch:
        """The features of `batch`, which lies at `where` (for the messages).

        What the function raised is quoted, unless its text may hold a value that nobody is to see (`quotes`).

        Raises:
            TransformError: it raised, returned something else, other rows, or another schema than before.
        """
        raised = None
        try:
            features = self._function(batch)
        except (Exception, SystemExit) as e:
            raised = e
        if raised is not None:
            said = raised if quotes else "its text is left out, for the input has sensitive columns"
            raise TransformError(
                f"transform {self.name} raised {type(raised).__name__} on {where}: {said}",
                next_step="it must take every row: handle such values in it, or keep them out of the input",
                transform=self.name,
                where=where,
            ) from (raised if quotes else None)
        if isinstance(features, pa.Table):
            features = _one_batch(features)
        if not isinstance(features, pa.RecordBatch):
            found = type(features).__name__
            raise self._broken(where, f"returned {found}, not a pyarrow RecordBatch or Table")
        if features.num_rows != batch.num_rows:
            raise self._broken(where, f"returned {features.num_rows} rows for {batch.num_rows}")
        if self._schema is None:
            self._schema = features.schema
        if not features.schema.equals(self._schema):
            before, now = _difference(self._schema, features.schema)
            raise self._broken(where, f"returned another schema: {now}, before {before}")
        return views.free_batch(features)

    def misfit(self, error: InputError, where: str) -> TransformError:
        """What the model says of the features that the transform returned for the rows at `where`, as its fault."""
        return TransformError(
            f"transform {self.name} returned columns that the model does not take ({where}): {error.message}",
            next_step="return each column that the model takes; batchinfer check PIPELINE shows them",
            transform=self.name,
            where=where,
        )

    def _broken(self, where: str, what: str) -> TransformError:
        return TransformError(
            f"transform {self.name} {what} ({where})",
            next_step="return one row for each row, in order, always with the same columns and types",
            transform=self.name,
            where=where,
        )


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _difference(before: pa.Schema, now: pa.Schema) -> tuple[str, str]:
    def said(schema: pa.Schema, other: pa.Schema) -> str:
        unlike = [f for f in schema if other.get_field_index(f.name) < 0 or other.field(f.name) != f]
        return ", ".join(f"{f.name} {f.type}" for f in unlike) or "the same columns in another order"

    return said(before, now), said(now, before)
