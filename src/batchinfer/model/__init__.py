"""Models: bundles, the registry, and scoring with ONNX Runtime under a bundle's certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchinfer.model._bundle import PROFILE, REFERENCE, Bundle, read_bundle
from batchinfer.model._devices import DeviceOptions
from batchinfer.model._manifest import Certificate, InputMapping, Manifest, OutputMapping, Padding
from batchinfer.model._registry import RegisteredModel, Registry
from batchinfer.model._scorer import Scorer

if TYPE_CHECKING:
    from batchinfer.model._add import add_model

__all__ = [
    "PROFILE",
    "REFERENCE",
    "Bundle",
    "Certificate",
    "DeviceOptions",
    "InputMapping",
    "Manifest",
    "OutputMapping",
    "Padding",
    "RegisteredModel",
    "Registry",
    "Scorer",
    "add_model",
    "read_bundle",
]


def __getattr__(name: str) -> Any:
    if name != "add_model":  # the only part that no run needs
        raise AttributeError(f"module 'batchinfer.model' has no attribute '{name}'")
    from batchinfer.model._add import add_model

    return add_model
