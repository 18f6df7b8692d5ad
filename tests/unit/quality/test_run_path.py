from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CODE = """
import json, sys
from datetime import UTC, datetime
import pyarrow as pa, numpy as np
from batchinfer.core import Lineage
from batchinfer.core.arrays import from_numpy, from_texts
from batchinfer.quality import compile_suite, load_suite, survey, validation_result
batch = pa.RecordBatch.from_arrays(
    [from_numpy(np.arange(5.0)), from_numpy(np.arange(5)), from_texts(["a", "b", "a", "", "é"]),
     from_numpy(np.arange(5)).cast(pa.timestamp("ns"))],
    names=["x", "n", "s", "at"])
suite, judgements = load_suite(sys.argv[1]), []
checks, foreign = compile_suite(suite, batch.schema)
assert not foreign
read = lambda columns: iter([(batch.select(list(columns)), 'f', 0)])
checks = survey(checks, read)
for check in checks:
    state, mask = check.measure(batch, Lineage("m", "r", "f", from_numpy(np.arange(5))))
    judgements.append((check.expectation, check.judge(check.merge(state, state))))
json.dumps(validation_result(suite, judgements, run_id="r", started=datetime.now(UTC), asset="a", facts={}))
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
        *(
            (f"expect_column_{name}_to_be_between", {"column": "x", "min_value": 1, "row_condition": "n > 0"})
            for name in ("mean", "min", "max", "sum", "stdev", "median", "proportion_of_non_null_values")
        ),
        ("expect_column_max_to_be_between", {"column": "at", "min_value": "2020-01-01"}),
        (
            "expect_column_quantile_values_to_be_between",
            {"column": "n", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[0, 9]]}},
        ),
        (
            "expect_column_kl_divergence_to_be_less_than",
            {"column": "x", "partition_object": {"bins": [0, 9], "weights": [1]}, "threshold": 1},
        ),
        (
            "expect_column_kl_divergence_to_be_less_than",
            {"column": "s", "partition_object": {"values": ["a"], "weights": [1]}, "threshold": 1},
        ),
        ("expect_column_values_to_be_unique", {"column": "s"}),
        ("expect_compound_columns_to_be_unique", {"column_list": ["s", "at", "x"]}),
        ("expect_column_unique_value_count_to_be_between", {"column": "at", "min_value": 1}),
        ("expect_column_proportion_of_unique_values_to_be_between", {"column": "x", "min_value": 1}),
        ("expect_column_distinct_values_to_equal_set", {"column": "s", "value_set": ["a"]}),
        ("expect_column_most_common_value_to_be_in_set", {"column": "s", "value_set": ["a"]}),
        ("expect_table_row_count_to_equal", {"value": 5}),
        ("expect_table_column_count_to_equal", {"value": 4}),
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
