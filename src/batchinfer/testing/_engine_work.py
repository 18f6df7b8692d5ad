"""Work in miniature for the engine suite: small values that pickle, and leave a note of each attempt in a folder."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from batchinfer.core import RowCounts, UnitReport, WorkUnit
from batchinfer.errors import RunFailed

PATIENCE_SECONDS = 120.0
"""No wait of the suite is longer: what has not come by then does not come."""


def units(count: int) -> list[WorkUnit]:
    """Units without rows, for work that reads none."""
    return [WorkUnit(index, (), ()) for index in range(count)]


def wait_for(path: Path) -> None:
    """Wait until a file is there.

    Raises:
        RunFailed: it did not come.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise RunFailed(f"waited {PATIENCE_SECONDS:.0f} s in vain for {path}")
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Notes:
    """What workers note of their attempts, in a folder that all of them see."""

    folder: str

    def write(self, unit: WorkUnit, what: str) -> int:
        """Note an attempt; returns how many notes of this kind there are of the unit, this one included."""
        name = f"{what}-{unit.index}-"
        (Path(self.folder) / f"{name}{os.getpid()}-{uuid.uuid4().hex}").touch()
        return len(list(Path(self.folder).glob(f"{name}*")))

    def begun(self) -> Counter[int]:
        """How often each unit was begun."""
        return Counter(int(path.name.split("-")[1]) for path in Path(self.folder).glob("begun-*"))

    def processes(self) -> set[int]:
        """The processes that began a unit."""
        return {int(path.name.split("-")[2]) for path in Path(self.folder).glob("begun-*")}


@dataclass(frozen=True, slots=True)
class NotingWork:
    """Reports every unit, and on some of them does as it is told first.

    Attributes:
        notes: where each attempt is noted.
        raises: the error that a unit raises, and how often.
        kills: how often a unit kills its process.
        waits: units that wait for the file `go` in the notes' folder.
        seconds: how long every unit takes.
    """

    notes: Notes
    raises: dict[int, tuple[Exception, int]] = field(default_factory=dict)
    kills: dict[int, int] = field(default_factory=dict)
    waits: Sequence[int] = ()
    seconds: float = 0.0

    def __call__(self, unit: WorkUnit, device: str | None = None, /) -> UnitReport:
        """See the class."""
        attempt = self.notes.write(unit, "begun")
        if attempt <= self.kills.get(unit.index, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        error, times = self.raises.get(unit.index, (None, 0))
        if error is not None and attempt <= times:
            raise error
        if unit.index in self.waits:
            wait_for(Path(self.notes.folder) / "go")
        time.sleep(self.seconds)
        return UnitReport(unit.index, unit.digest(), (), RowCounts(), None, None, {}, {})


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """Holds the device that it is given for a while, and fails where more tasks hold it than may.

    Attributes:
        folder: where it notes who holds which device.
        share: how many tasks may hold a device at a time.
        seconds: for how long it holds one.
    """

    folder: str
    share: int
    seconds: float = 0.3

    def __call__(self, unit: WorkUnit, device: str | None = None, /) -> UnitReport:
        """See the class."""
        if device is None:
            raise RunFailed(f"unit {unit.index} was given no device")
        with self._held(unit, device):
            end = time.monotonic() + self.seconds
            while time.monotonic() < end:
                holders = [path.name for path in Path(self.folder).glob(f"holds-{device}-*")]
                if len(holders) > self.share:
                    raise RunFailed(f"device {device} is held by {len(holders)} tasks at once: {holders}")
                time.sleep(0.01)
        return UnitReport(unit.index, unit.digest(), (), RowCounts(), None, None, {device: 1}, {})

    @contextmanager
    def _held(self, unit: WorkUnit, device: str) -> Iterator[None]:
        note = Path(self.folder) / f"holds-{device}-{unit.index}"
        note.touch()
        try:
            yield
        finally:
            note.unlink()
