"""Names for work: the same work has the same id, wherever and whenever it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from urllib.parse import quote

from batchinfer.core._units import InputFile, Partition

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The folder that Hive and Spark write rows to whose partition column is null."""
NULL_TO_READERS = ("", HIVE_NULL)
"""Partition values that not every reader can tell from null: "" is null to Delta Lake."""


def run_id(
    *,
    pipeline: str,
    parameters: Mapping[str, str],
    spec_digest: str,
    model_digest: str,
    inputs: Iterable[InputFile],
) -> str:
    """Derive a run's id: 20 hexadecimal digits over all that decides what the run will write."""
    stated = {
        "pipeline": pipeline,
        "parameters": dict(parameters),
        "spec": spec_digest,
        "model": model_digest,
        "inputs": [asdict(file) for file in inputs],
    }
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:20]


def partition_path(partition: Partition) -> str:
    """`column=value/…`, escaped as Hive and Delta Lake do; "" for a table without partitions."""
    return "/".join(f"{quote(name, safe='')}={_escaped(value)}" for name, value in partition)


def _escaped(value: str) -> str:
    return quote(value, safe=" !$&()+,-.;@_~")
