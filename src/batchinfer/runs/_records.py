"""Run records: one small JSON file a run, under BATCHINFER_RUNS or `runs/` in the working directory."""

from __future__ import annotations

import json
import logging
import os

import pyarrow as pa
from pyarrow import fs

from batchinfer.core import files
from batchinfer.errors import UsageError
from batchinfer.runs._report import RunReport

_log = logging.getLogger("batchinfer.runs")


class RunRecords:
    """Where reports of runs are kept, so that every run has a record: also a failed one.

    Args:
        location: a folder or URL; by default BATCHINFER_RUNS, else `runs` here.
    """

    def __init__(self, location: str | None = None) -> None:
        self.location = location or os.environ.get("BATCHINFER_RUNS") or "runs"

    def write(self, report: RunReport) -> None:
        """Keep a report under its run id; the latest attempt's stands."""
        text = json.dumps(report.to_dict(), indent=1)
        files.write_bytes(files.join(self.location, f"{report.run_id}.json"), text.encode())

    def settle(self, report: RunReport) -> None:
        """Have the record of a run whose work stands say so: it may have been killed just before it said it itself.

        Does nothing where there is no readable record of it, or one that says so.
        """
        try:
            recorded = self._read(files.join(self.location, f"{report.run_id}.json"))
        except (FileNotFoundError, UsageError):
            return
        if recorded.status != "done":
            self.write(report.with_(started_at=recorded.started_at))

    def keep(self, run_id: str, name: str, content: bytes | pa.Buffer) -> None:
        """Keep a file of a run beside its record, as `<run id>/<name>`."""
        files.write_bytes(files.join(self.location, run_id, name), content)

    def kept(self, run_id: str, name: str) -> bytes | None:
        """A file of a run; None where it has none of that name."""
        try:
            return files.read_bytes(files.join(self.location, run_id, name))
        except FileNotFoundError:
            return None

    def _files(self) -> list[fs.FileInfo]:
        try:
            return files.list_files(self.location)
        except OSError as e:
            raise UsageError(
                f"{self.location}: no folder with records of runs: {e}",
                next_step="point BATCHINFER_RUNS at a folder, or unset it",
                path=self.location,
            ) from e

    def all(self) -> list[RunReport]:
        """Every readable record, the latest first; a warning is logged for each file that is none."""
        records = []
        for info in self._files():
            if info.extension == "json":
                try:
                    records.append(self._read(files.join(self.location, info.base_name)))
                except UsageError as e:
                    _log.warning("%s", e)
        return sorted(records, key=lambda report: report.started_at, reverse=True)

    def find(self, run_id: str) -> RunReport:
        """The record of a run, by its id or the beginning of it.

        Raises:
            UsageError: none, or several.
        """
        names = [info.base_name for info in self._files()]
        matching = [n for n in names if n.startswith(run_id) and n.endswith(".json")]
        if len(matching) != 1:
            found = f"{len(matching)} runs begin" if matching else "no run begins"
            raise UsageError(
                f"{found} with '{run_id}' in {self.location}",
                next_step="batchinfer runs list shows them all",
                run_id=run_id,
            )
        return self._read(files.join(self.location, matching[0]))

    def _read(self, path: str) -> RunReport:
        try:
            return RunReport.from_dict(json.loads(files.read_bytes(path)))
        except (ValueError, KeyError, TypeError) as e:
            raise UsageError(f"{path}: not a run record: {e}", next_step="remove the file", path=path) from e
