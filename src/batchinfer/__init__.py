"""batchinfer scores data with a trained model, nightly in batch and continuously from Kafka, from one spec.

The names below are imported when first used, so that `import batchinfer` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchinfer.model import Scorer
    from batchinfer.runs import RunReport, run
    from batchinfer.spec import PipelineSpec, load_spec

__all__ = ["PipelineSpec", "RunReport", "Scorer", "load_spec", "run"]
__version__ = "0.1.0"

_HOME = {
    "PipelineSpec": "batchinfer.spec",
    "RunReport": "batchinfer.runs",
    "Scorer": "batchinfer.model",
    "load_spec": "batchinfer.spec",
    "run": "batchinfer.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'batchinfer' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
