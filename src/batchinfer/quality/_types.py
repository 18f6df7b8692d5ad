"""Under which names a column's Arrow type is known: by Arrow itself, NumPy and pandas, Python, and Spark."""

from __future__ import annotations

import pyarrow as pa

_FIXED: dict[pa.DataType, str] = {
    pa.int8(): "Int8 Int8Dtype byte b i1 ByteType",
    pa.int16(): "Int16 Int16Dtype short i2 ShortType",
    pa.int32(): "Int32 Int32Dtype intc i4 IntegerType",
    pa.int64(): "Int64 Int64Dtype int long int_ i8 LongType",
    pa.uint8(): "UInt8 UInt8Dtype ubyte u1",
    pa.uint16(): "UInt16 UInt16Dtype ushort u2",
    pa.uint32(): "UInt32 UInt32Dtype uintc u4",
    pa.uint64(): "UInt64 UInt64Dtype uint ulong u8",
    pa.float16(): "float16 half f2",
    pa.float32(): "float32 Float32 Float32Dtype single f4 FloatType",
    pa.float64(): "float64 Float64 Float64Dtype float double float_ f8 DoubleType",
    pa.bool_(): "bool bool_ boolean BooleanDtype BooleanType ?",
    pa.date32(): "date date32 DateType object object_ O",
    pa.date64(): "date date64 DateType object object_ O",
    pa.null(): "null None none NullType object object_ O",
}
_TEXT = "string utf8 large_string str string_types StringDtype StringType object object_ O"
_BINARY = "binary large_binary bytes BinaryType object object_ O"


def names_of(type_: pa.DataType) -> frozenset[str]:
    """All names of a type. `float` is NumPy's, of 64 bits, as in Great Expectations; Arrow's own is `float32`."""
    types = pa.types
    if types.is_dictionary(type_):
        names = f"category CategoricalDtype CategoricalDtypeType dictionary {' '.join(names_of(type_.value_type))}"
    elif type_ in _FIXED:
        names = _FIXED[type_] + ("" if types.is_float32(type_) else f" {type_}")
    elif types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        names = _TEXT
    elif types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        names = _BINARY
    elif types.is_timestamp(type_):
        names = f"timestamp datetime Timestamp TimestampType timestamp[{type_.unit}]"
        names += " DatetimeTZDtype" if type_.tz else f" datetime64 datetime64[{type_.unit}] TimestampNTZType"
    elif types.is_decimal(type_):
        names = "decimal Decimal DecimalType object object_ O"
    elif types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        names = "list ArrayType object object_ O"
    elif types.is_struct(type_):
        names = "struct dict StructType object object_ O"
    else:
        names = "object object_ O"
    return frozenset({*names.split(), str(type_)} - ({"float"} if types.is_float32(type_) else set()))


KNOWN: frozenset[str] = frozenset[str]().union(
    *map(names_of, _FIXED),
    *(
        names_of(example)
        for example in (
            pa.string(),
            pa.binary(),
            *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
            pa.timestamp("us", "UTC"),
            pa.decimal128(9, 2),
            pa.list_(pa.int8()),
            pa.struct([]),
            pa.dictionary(pa.int32(), pa.string()),
        )
    ),
)
"""The names that any type can have, parameters aside."""
