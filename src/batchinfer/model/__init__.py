"""Models: bundles, the registry, and scoring with ONNX Runtime under a bundle's certificate."""

from batchinfer.model._add import add_model
from batchinfer.model._bundle import Bundle, read_bundle
from batchinfer.model._manifest import Certificate, InputMapping, Manifest, OutputMapping, Padding
from batchinfer.model._registry import RegisteredModel, Registry
from batchinfer.model._scorer import Scorer

__all__ = [
    "Bundle",
    "Certificate",
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
