from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import pyarrow as pa, numpy as np
from batchinfer.core import Lineage
from batchinfer.core.arrays import from_numpy, from_texts
from batchinfer.quality import compile_suite, load_suite
batch = pa.RecordBatch.from_arrays(
    [from_numpy(np.arange(5.0)), from_numpy(np.arange(5)), from_texts(["a", "b", "a", "", "é"]),
     from_numpy(np.arange(5)).cast(pa.timestamp("ns"))],
    names=["x", "n", "s", "at"])
checks, foreign = compile_suite(load_suite(sys.argv[1]), batch.schema)
assert not foreign
for check in checks:
    state, mask = check.measure(batch, Lineage("m", "r", "f", from_numpy(np.arange(5))))
    check.judge(check.merge(state, state))
print(sorted(name for name in sys.modules if name in {"pandas", "great_expectations"}))
"""


def test_a_json_suite_runs_without_pandas_and_great_expectations(tmp_path: Path) -> None:
    stated = [
        ("expect_column_values_to_not_be_null", {"column": "x"}),
        ("expect_column_values_to_be_null", {"column": "at"}),
        (
            "expect_column_values_to_be_between",
            {"column": "x", "min_value": 1, "row_condition": "s == 'a' or n > 2"},
        ),
        (
            "expect_column_values_to_be_between",
            {"column": "at", "min_value": "2020-01-01", "row_condition": "s < 'b'"},
        ),
        ("expect_column_values_to_be_in_set", {"column": "s", "value_set": ["a"]}),
        ("expect_column_values_to_be_in_set", {"column": "n", "value_set": list(range(2, 40))}),
        ("expect_column_values_to_match_regex", {"column": "s", "regex": "^a"}),
        ("expect_column_values_to_match_regex", {"column": "n", "regex": "(?=1)"}),
        ("expect_column_value_lengths_to_equal", {"column": "s", "value": 1}),
        ("expect_column_values_to_be_of_type", {"column": "s", "type_": "str"}),
        ("expect_column_pair_values_to_be_equal", {"column_A": "x", "column_B": "n"}),
        (
            "expect_column_pair_values_to_be_in_set",
            {"column_A": "s", "column_B": "n", "value_pairs_set": [["a", 1]]},
        ),
        ("expect_multicolumn_sum_to_equal", {"column_list": ["x", "n"], "sum_total": 2}),
        ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["x", "n"]}),
    ]
    suite = tmp_path / "suite.json"
    suite.write_text(
        json.dumps(
            {"name": "s", "expectations": [{"type": type_, "kwargs": kwargs} for type_, kwargs in stated]}
        )
    )
    done = subprocess.run([sys.executable, "-c", CODE, suite], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
