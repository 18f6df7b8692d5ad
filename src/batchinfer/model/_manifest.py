"""`model.yaml`: what a bundle says of its model, as frozen values."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scalar = bool | int | float | str


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_GOES_WITH = {
    "shape": ("column", "constant"),
    "pad": ("column",),
    "fill_null": ("pack", "column"),
}


class InputMapping(_Part):
    """Where the tensor of one ONNX input comes from. Exactly one of the first four keys is set.

    Attributes:
        pack: columns packed into one [N, F] tensor, in this order.
        column: one column: [N] or [N, 1] as the graph wants; with `shape`, a list column to [N, *shape];
            with `pad`, a list column of varying size to [N, T].
        mask_of: name of a padded input; 1 where it holds a real value, 0 where padding, [N, T].
        constant: the same value for every call; with `shape`, filled to it ("batch" is the batch size).
        pad: the value that fills up short lists.
        max: longest list that is taken; longer ones are quarantined. T never exceeds it.
        fill_null: what a null becomes. Without it a null becomes NaN where the model takes NaN, else the
            row is quarantined.
    """

    pack: tuple[str, ...] | None = None
    column: str | None = None
    mask_of: str | None = None
    constant: Scalar | None = None
    shape: tuple[int | str, ...] | None = None
    pad: int | float | None = None
    max: Annotated[int, Field(ge=1)] | None = None
    fill_null: Scalar | None = None

    @model_validator(mode="after")
    def _one_source(self) -> InputMapping:
        stated = [k for k in ("pack", "column", "mask_of", "constant") if getattr(self, k) is not None]
        if len(stated) != 1:
            found = " and ".join(stated) or "none of them"
            raise ValueError(f"an input takes one of pack, column, mask_of, constant; found {found}")
        if self.pack is not None and len(set(self.pack)) != len(self.pack):
            raise ValueError("pack names a column twice")
        if self.pack == ():
            raise ValueError("pack names no column")
        for key, sources in _GOES_WITH.items():
            if getattr(self, key) is not None and stated[0] not in sources:
                raise ValueError(f"{key} goes with {' or '.join(sources)}, not with {stated[0]}")
        if self.max is not None and self.pad is None:
            raise ValueError("max goes with pad")
        if self.shape is not None and self.pad is not None:
            raise ValueError("an input takes shape (lists of one size) or pad (lists of any size), not both")
        sizes = [d for d in self.shape or () if not (d == "batch" and self.constant is not None)]
        if wrong := [d for d in sizes if not isinstance(d, int) or d < 1]:
            raise ValueError(
                f"shape takes whole numbers from 1 on, for a constant also 'batch'; found {wrong[0]!r}"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that the mapping reads."""
        return self.pack or ((self.column,) if self.column is not None else ())


class OutputMapping(_Part):
    """How one ONNX output becomes result columns. Exactly one of `columns` and `column` is set.

    Attributes:
        columns: names for a [N, K] matrix's columns in order; as a mapping {class: name}, some of them.
        column: one column; a vector output ([N, D…]) becomes a fixed-size-list column, flattened.
        classes: the class of each of the matrix's columns, where the graph tells.
        size: how many values the output has for each row; 1 where it is left out.
    """

    columns: tuple[str, ...] | dict[int | str, str] | None = None
    column: str | None = None
    classes: tuple[int | str, ...] | None = None
    size: int | None = None

    @model_validator(mode="after")
    def _one_target(self) -> OutputMapping:
        if (self.columns is None) == (self.column is None):
            raise ValueError("an output takes either columns or column")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The result columns."""
        if self.column is not None:
            return (self.column,)
        return tuple(self.columns.values() if isinstance(self.columns, dict) else self.columns or ())


class Padding(_Part):
    """The rule for batch sizes under which a row's bits do not depend on its batch.

    `none`: any size. `multiple`: sizes are filled up to a multiple of `rows`. `fixed`: every call has
    exactly `rows` rows. Batches are filled up with copies of their last row, whose results are dropped.
    """

    rule: Literal["none", "multiple", "fixed"] = "none"
    rows: Annotated[int, Field(ge=1)] = 1

    def padded(self, rows: int) -> int:
        """How many rows a call for `rows` rows is made with."""
        if self.rule == "fixed":
            return self.rows
        return -(-rows // self.rows) * self.rows


class Certificate(_Part):
    """What `model add` measured, and the scoring path obeys.

    Attributes:
        batch_size: rows a call, the smallest near the fastest of the sweep.
        padding: see `Padding`.
        full_width: whether padded lists must always be padded to `max` for equal bits.
        bit_exact: whether a row's bits did not depend on batch size, position or neighbours.
        max_ulp: the largest difference where they did, in units in the last place.
        takes_nan: input columns in which NaN still gave finite scores.
        rows_per_second: the sweep, by batch size, one thread.
        measured_on: onnxruntime's version, the processor, and how many rows of the sample were used.
    """

    batch_size: Annotated[int, Field(ge=1)]
    padding: Padding = Padding()
    full_width: bool = False
    bit_exact: bool = True
    max_ulp: int = 0
    takes_nan: tuple[str, ...] = ()
    rows_per_second: dict[int, int] = {}
    measured_on: dict[str, str | int] = {}


class Manifest(_Part):
    """The content of `model.yaml`. `files` holds the sha256 of each other file of the bundle."""

    name: str
    version: str
    inputs: dict[str, InputMapping]
    outputs: dict[str, OutputMapping]
    training: dict[str, Any] = {}
    certificate: Certificate
    files: dict[str, str]
    digest: str = ""

    def computed_digest(self) -> str:
        """sha256 over all of the manifest but the digest, and so over all of the bundle."""
        stated = self.model_dump(mode="json", exclude={"digest"}, exclude_none=True)
        return "sha256:" + hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    @property
    def columns(self) -> tuple[str, ...]:
        """The input columns that the model reads, each once."""
        return tuple(dict.fromkeys(c for mapping in self.inputs.values() for c in mapping.columns))


class ModelConfig(_Part):
    """What `model add --config` may state; what it leaves out is inferred from the graph."""

    inputs: dict[str, InputMapping] = {}
    outputs: dict[str, OutputMapping] = {}
    training: dict[str, Any] = {}
