"""Parquet inputs: finding files, checking their columns, cutting units, reading them."""

from batchinfer.source._ahead import read_ahead
from batchinfer.source._files import Discovered, discover, has_parquet
from batchinfer.source._footer import SourceFile
from batchinfer.source._plan import plan_units
from batchinfer.source._read import read_rows, read_unit, unit_of_row
from batchinfer.source._schema import check_columns, kept_fields, original_fields, schema_of

__all__ = [
    "Discovered",
    "SourceFile",
    "check_columns",
    "discover",
    "has_parquet",
    "kept_fields",
    "original_fields",
    "plan_units",
    "read_ahead",
    "read_rows",
    "read_unit",
    "schema_of",
    "unit_of_row",
]
