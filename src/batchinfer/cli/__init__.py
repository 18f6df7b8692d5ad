"""The command line. Nothing heavy is imported before a command needs it."""

from batchinfer.cli._main import main

__all__ = ["main"]
