"""The pipeline spec: frozen, parsed once, and wrong keys are answered with the nearest right one."""

from batchinfer.spec._parse import load_spec, parse_spec, validate
from batchinfer.spec._pipeline import (
    AlertsSpec,
    DriftSpec,
    EngineSpec,
    InputSpec,
    LineageSpec,
    MetricsSpec,
    OutputSpec,
    PipelineSpec,
    QualitySpec,
    ScheduleSpec,
)
from batchinfer.spec._stream import BudgetSpec, FormatSpec, StreamSpec
from batchinfer.spec._template import fill_parameters, parameters_of
from batchinfer.spec._urls import holds_password, is_database
from batchinfer.spec._yaml import read_yaml

__all__ = [
    "AlertsSpec",
    "BudgetSpec",
    "DriftSpec",
    "EngineSpec",
    "FormatSpec",
    "InputSpec",
    "LineageSpec",
    "MetricsSpec",
    "OutputSpec",
    "PipelineSpec",
    "QualitySpec",
    "ScheduleSpec",
    "StreamSpec",
    "fill_parameters",
    "holds_password",
    "is_database",
    "load_spec",
    "parameters_of",
    "parse_spec",
    "read_yaml",
    "validate",
]
