"""Great Expectations' expectations and their arguments: a suite is read without importing Great Expectations."""

from __future__ import annotations

from dataclasses import dataclass

_ROWS = "row_condition condition_parser"
_MAP = f"mostly {_ROWS}"
_BOUNDS = "min_value max_value strict_min strict_max"
_BETWEEN = f"{_ROWS} {_BOUNDS}"

_TABLE = {
    "column_distinct_values_to_be_in_set": ("column value_set", _ROWS),
    "column_distinct_values_to_contain_set": ("column value_set", _ROWS),
    "column_distinct_values_to_equal_set": ("column value_set", _ROWS),
    "column_kl_divergence_to_be_less_than": (
        "column",
        f"{_ROWS} partition_object threshold internal_weight_holdout tail_weight_holdout bucketize_data "
        "min_value max_value",
    ),
    "column_max_to_be_between": ("column", _BETWEEN),
    "column_mean_to_be_between": ("column", _BETWEEN),
    "column_median_to_be_between": ("column", _BETWEEN),
    "column_min_to_be_between": ("column", _BETWEEN),
    "column_most_common_value_to_be_in_set": ("column value_set", f"{_ROWS} ties_okay"),
    "column_pair_values_a_to_be_greater_than_b": ("column_A column_B", f"{_MAP} or_equal ignore_row_if"),
    "column_pair_values_to_be_equal": ("column_A column_B", f"{_MAP} ignore_row_if"),
    "column_pair_values_to_be_in_set": ("column_A column_B value_pairs_set", f"{_MAP} ignore_row_if"),
    "column_proportion_of_non_null_values_to_be_between": ("column", _BETWEEN),
    "column_proportion_of_unique_values_to_be_between": ("column", _BETWEEN),
    "column_quantile_values_to_be_between": ("column quantile_ranges", f"{_ROWS} allow_relative_error"),
    "column_stdev_to_be_between": ("column", _BETWEEN),
    "column_sum_to_be_between": ("column", _BETWEEN),
    "column_to_exist": ("column", "column_index"),
    "column_type_to_be": ("column type_", ""),
    "column_unique_value_count_to_be_between": ("column", _BETWEEN),
    "column_value_lengths_to_be_between": ("column", f"mostly {_BETWEEN}"),
    "column_value_lengths_to_equal": ("column value", _MAP),
    "column_value_z_scores_to_be_less_than": ("column threshold double_sided", _MAP),
    "column_values_to_be_between": ("column", f"mostly {_BETWEEN}"),
    "column_values_to_be_dateutil_parseable": ("column", _MAP),
    "column_values_to_be_decreasing": ("column", f"{_MAP} strictly"),
    "column_values_to_be_in_set": ("column value_set", _MAP),
    "column_values_to_be_in_type_list": ("column", f"{_MAP} type_list"),
    "column_values_to_be_increasing": ("column", f"{_MAP} strictly"),
    "column_values_to_be_json_parseable": ("column", _MAP),
    "column_values_to_be_null": ("column", _MAP),
    "column_values_to_be_of_type": ("column type_", _MAP),
    "column_values_to_be_unique": ("column", _MAP),
    "column_values_to_match_json_schema": ("column json_schema", _MAP),
    "column_values_to_match_like_pattern": ("column like_pattern", f"{_MAP} escape"),
    "column_values_to_match_like_pattern_list": ("column like_pattern_list", f"{_MAP} match_on escape"),
    "column_values_to_match_regex": ("column", f"{_MAP} regex"),
    "column_values_to_match_regex_list": ("column regex_list", f"{_MAP} match_on"),
    "column_values_to_match_strftime_format": ("column strftime_format", _MAP),
    "column_values_to_not_be_in_set": ("column value_set", _MAP),
    "column_values_to_not_be_null": ("column", _MAP),
    "column_values_to_not_be_outliers": ("column", f"{_MAP} method multiplier"),
    "column_values_to_not_match_like_pattern": ("column like_pattern", f"{_MAP} escape"),
    "column_values_to_not_match_like_pattern_list": ("column like_pattern_list", f"{_MAP} escape"),
    "column_values_to_not_match_regex": ("column regex", _MAP),
    "column_values_to_not_match_regex_list": ("column regex_list", _MAP),
    "compound_columns_to_be_unique": ("column_list", f"{_MAP} ignore_row_if"),
    "multicolumn_sum_to_equal": ("column_list sum_total", f"{_MAP} ignore_row_if"),
    "multicolumn_values_to_be_equal": ("column_list", f"{_MAP} ignore_row_if"),
    "query_results_to_match_comparison": (
        "base_query comparison_data_source_name comparison_query",
        "mostly",
    ),
    "select_column_values_to_be_unique_within_record": ("column_list", f"{_MAP} ignore_row_if"),
    "table_column_count_to_be_between": ("", "min_value max_value"),
    "table_column_count_to_equal": ("value", ""),
    "table_columns_to_match_ordered_list": ("", "column_list"),
    "table_columns_to_match_set": ("", "column_set exact_match"),
    "table_row_count_to_be_between": ("", _BETWEEN),
    "table_row_count_to_equal": ("value", _ROWS),
    "table_row_count_to_equal_other_table": ("other_table_name", _ROWS),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """The arguments of one expectation, by Great Expectations' own names."""

    required: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """All that it takes."""
        return self.required + self.optional


CATALOG: dict[str, Entry] = {
    f"expect_{name}": Entry(tuple(required.split()), tuple(optional.split()))
    for name, (required, optional) in _TABLE.items()
} | {"unexpected_rows_expectation": Entry(("unexpected_rows_query",), ())}

COMMON: frozenset[str] = frozenset({"result_format", "catch_exceptions", "batch_id", "windows"})
"""What any expectation takes besides, without a meaning for the verdict."""
