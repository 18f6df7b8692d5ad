"""The plan of a stream: from a spec to what scores a message. Reads no message and writes nothing."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from batchinfer.core import ScoringPath, Sensitive, Transform, run_id, storable
from batchinfer.drift import Reference
from batchinfer.errors import ModelError, SpecError
from batchinfer.model import PROFILE, REFERENCE, Bundle, Registry, Scorer
from batchinfer.quality import Suite, SuiteChecks, Unsurveyed, compile_suite, refuses
from batchinfer.runs._drift import DriftPlan, load_drift
from batchinfer.runs._plan import load_sensitive, load_transform
from batchinfer.runs._quality import read_suite
from batchinfer.spec import PipelineSpec, StreamSpec, parameters_of
from batchinfer.streaming import Decoder, MessageScorer, open_decoder

_log = logging.getLogger("batchinfer.stream")


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What a stream works with, for one version of the model.

    `schema` are the columns of a message; `key` and `carry` the kept ones as results hold them.
    """

    spec: PipelineSpec
    stream: StreamSpec
    run_id: str
    schema: pa.Schema
    key: tuple[pa.Field, ...]
    carry: tuple[pa.Field, ...]
    scorer: Scorer
    drift: DriftPlan | None
    score: MessageScorer

    @property
    def group(self) -> str:
        """The consumer group."""
        return self.stream.group or f"batchinfer-{self.spec.name}"


def stream_of(spec: PipelineSpec) -> StreamSpec:
    """The spec's section about the stream.

    Raises:
        SpecError: it has none.
    """
    if spec.stream is None:
        raise SpecError(
            "stream: the spec has no such section",
            next_step="add at least stream: {input_topic: …, output_topic: …}; see docs/streaming.md",
            key="stream",
        )
    return spec.stream


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What stays when the model moves."""

    spec: PipelineSpec
    stream: StreamSpec
    transform: Transform | None
    suite: Suite | None
    sensitive: Sensitive
    spec_digest: str


class StreamPlanner:
    """Makes the plan of a stream, and makes it anew when the model's alias has moved.

    Raises:
        SpecError: the spec has no `stream:`, or says what a stream cannot do; names it.
        ModelError, TransformError, InputError: see `make_plan`.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        stream = stream_of(spec)
        needs = parameters_of(spec.output.path)
        if needs and (spec.drift is not None or "store" in stream.sinks):
            raise SpecError(
                f"output.path: a stream has no parameter '{needs[0]}'",
                next_step="name one table, and partition it with output.partition_by",
                key="output.path",
            )
        if "store" in stream.sinks:
            _check_sink(spec, stream)
        sensitive = load_sensitive(spec)
        digest = spec.digest() + (sensitive.key_id or "")
        self._fixed = _Fixed(spec, stream, load_transform(spec), read_suite(spec), sensitive, digest)
        self._decoder: tuple[pa.Schema, Decoder] | None = None
        self._columns: pa.Schema | None = None

    def resolve(self) -> Bundle:
        """The bundle that the spec's model means now."""
        return Registry(self._fixed.spec.registry).resolve(self._fixed.spec.model)

    def plan(self, bundle: Bundle) -> StreamPlan:
        """The plan with this model, verified and loaded."""
        fixed = self._fixed
        spec, scorer = fixed.spec, Scorer.of(bundle)
        schema = _schema(fixed, scorer)
        _check_sensitive(fixed.sensitive, schema)
        checks = None if fixed.suite is None else _checks(fixed.suite, spec, schema)
        drift = load_drift(spec, scorer, fixed.sensitive)
        key, carry = (
            fixed.sensitive.in_results.fields(
                [pa.field(n, storable(schema.field(n).type, f"the column '{n}'")) for n in names]
            )
            for names in (spec.input.key, spec.output.carry)
        )
        path = ScoringPath(
            scorer,
            fixed.transform,
            key,
            carry,
            checks=checks,
            profiler=drift.profiler if drift is not None else None,
            sensitive=fixed.sensitive,
        )
        self._check_columns(path.result_schema, scorer)
        identity = run_id(
            pipeline=spec.name,
            parameters={"stream": fixed.stream.input_topic, "group": fixed.stream.group or ""},
            spec_digest=fixed.spec_digest,
            model_digest=bundle.manifest.digest,
            inputs=(),
        )
        score = MessageScorer(self._decode(schema), path, identity)
        return StreamPlan(spec, fixed.stream, identity, schema, key, carry, scorer, drift, score)

    def _check_columns(self, results: pa.Schema, scorer: Scorer) -> None:
        """A table's columns do not change while a stream writes to it."""
        if "store" in self._fixed.stream.sinks and self._columns is not None and results != self._columns:
            raise ModelError(
                f"{scorer.identity}: its result columns are not those of the table that the stream writes to",
                next_step="write them to another output.path, with a stream that is started anew",
            )
        self._columns = self._columns or results

    def _decode(self, schema: pa.Schema) -> Decoder:
        if self._decoder is None or not self._decoder[0].equals(schema):
            decoder = open_decoder(schema, self._fixed.stream.format, self._fixed.spec.folder)
            self._decoder = (schema, decoder)
        return self._decoder[1]


def _check_sink(spec: PipelineSpec, stream: StreamSpec) -> None:
    """Hold `sink_partition` against the output's columns."""
    for name, source in stream.sink_partition.items():
        if name not in spec.output.partition_by:
            raise SpecError(
                f"stream.sink_partition: '{name}' is not a column of output.partition_by",
                next_step=f"it has {', '.join(spec.output.partition_by) or 'none'}",
                column=name,
            )
        if source not in {"timestamp", *spec.input.key, *spec.output.carry}:
            raise SpecError(
                f"stream.sink_partition: '{name}' comes from '{source}', which is neither `timestamp` nor a column "
                "of input.key or output.carry",
                next_step="carry the column, or take the day of the messages' timestamps",
                column=source,
            )


def _schema(fixed: _Fixed, scorer: Scorer) -> pa.Schema:
    """The columns of a message: those that anybody asks for, typed by the spec, else as the training data was."""
    spec, stream = fixed.spec, fixed.stream
    stated = {name: _type(name, text) for name, text in stream.columns.items()}
    known = {**_reference_types(scorer), **stated}
    suite = () if fixed.suite is None else _suite_columns(fixed.suite)
    model = scorer.columns if fixed.transform is None else ()
    names = list(dict.fromkeys([*spec.input.key, *spec.output.carry, *model, *suite, *stated]))
    for name in names:
        if name not in known:
            raise SpecError(
                f"stream.columns: nothing says of which type '{name}' is",
                next_step=f"write {name}: int64 (or another of Arrow's types) below stream.columns",
                column=name,
            )
    if fixed.transform is None:
        scorer.check_columns({name: known[name] for name in names})
    return pa.schema([pa.field(name, known[name]) for name in names])


def _check_sensitive(sensitive: Sensitive, schema: pa.Schema) -> None:
    """One that no message is read for is in nothing that the stream keeps; one that is misspelt would be."""
    read = [name for name in schema.names if name not in sensitive]
    for column in sensitive.columns.keys() - {*schema.names}:
        if near := difflib.get_close_matches(column, read, n=1):
            raise SpecError(
                f"input.sensitive: no message has a column '{column}'; did you mean '{near[0]}'?",
                column=column,
            )


def _reference_types(scorer: Scorer) -> dict[str, pa.DataType]:
    content, profile = scorer.bundle.read(REFERENCE), scorer.bundle.read(PROFILE)
    if content is None:
        return {}
    hashed = () if profile is None else Reference.from_json(profile).sensitive.columns
    schema = [f for f in pq.read_schema(pa.BufferReader(content)) if f.name not in hashed]
    return {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in schema}


def _suite_columns(suite: Suite) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in suite.expectations for name in one.columns))


_TYPES: dict[str, Callable[[], pa.DataType]] = {
    name: getattr(pa, name)
    for name in (
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float32",
        "float64",
    )
} | {"string": pa.string, "bool": pa.bool_, "date32": pa.date32, "binary": pa.binary}


def _type(name: str, text: str) -> pa.DataType:
    """An Arrow type by its name; also `timestamp[us]`, `timestamp[us, tz=UTC]`, `list<float32>` and with `[n]`."""
    word = text.replace(" ", "")
    if word in _TYPES:
        return _TYPES[word]()
    if word.startswith("timestamp[") and word.endswith("]"):
        unit, _, zone = word[10:-1].partition(",tz=")
        if unit in {"s", "ms", "us", "ns"}:
            return pa.timestamp(unit, zone or None)
    if word.startswith("list<"):
        inner, _, size = word[5:].partition(">")
        if not size:
            return pa.list_(_type(name, inner))
        if size.strip("[]").isdigit() and int(size.strip("[]")):
            return pa.list_(_type(name, inner), int(size.strip("[]")))
    raise SpecError(
        f"stream.columns: '{name}' has the type '{text}'; allowed are {', '.join(_TYPES)}, timestamp[us], "
        "timestamp[us, tz=UTC], list<float32> and list<float32>[128]",
        column=name,
    )


def _checks(suite: Suite, spec: PipelineSpec, schema: pa.Schema) -> SuiteChecks:
    """The checks on each row. What takes all rows of a run to judge is refused, or left to batch."""
    compiled, uncompiled = compile_suite(suite, schema)
    cannot = [one.name for one in uncompiled] + [
        c.expectation.name for c in compiled if isinstance(c, Unsurveyed)
    ]
    if cannot:
        raise SpecError(
            f"quality.suite: a stream cannot check {', '.join(cannot)}",
            next_step="they take all rows of a run, or Great Expectations itself: give the stream a suite without them",
            expectations=cannot,
        )
    if spec.quality.on_failure == "warn":
        return SuiteChecks((), quarantines=False)
    used = [check for check in compiled if refuses(check)]
    if left := [check.expectation.name for check in compiled if not refuses(check)]:
        _log.info("judged by batch runs alone, as they refuse no row: %s", ", ".join(left))
    return SuiteChecks(used, quarantines=True)
