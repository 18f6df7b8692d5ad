"""Property tests are not timed: a busy machine is no failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("batchinfer", deadline=None)
settings.load_profile("batchinfer")
