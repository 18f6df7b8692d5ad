"""The error budget: the share of dead letters that a stream may write before it stops."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from batchinfer.errors import ErrorBudgetSpent
from batchinfer.spec import BudgetSpec
from batchinfer.streaming._ports import MicroBatch


class ErrorBudget:
    """Judges the messages of a sliding window, told in the commit thread."""

    def __init__(self, spec: BudgetSpec, clock: Callable[[], float] = monotonic) -> None:
        self._spec = spec
        self._clock = clock
        self._window: deque[tuple[float, int, int]] = deque()
        self._messages = self._refused = 0

    def committed(self, batches: Sequence[MicroBatch]) -> None:
        """Count these.

        Raises:
            ErrorBudgetSpent: too many of the window's messages became dead letters. All are committed.
        """
        now = self._clock()
        messages = sum(len(batch.records) for batch in batches)
        refused = sum(len(batch.refused) for batch in batches)
        self._window.append((now, messages, refused))
        self._messages += messages
        self._refused += refused
        while self._window[0][0] < now - self._spec.window_seconds:
            _, old_messages, old_refused = self._window.popleft()
            self._messages -= old_messages
            self._refused -= old_refused
        share = self._refused / max(1, self._messages)
        if self._messages < self._spec.min_records or share <= self._spec.share:
            return
        raise ErrorBudgetSpent(
            f"{self._refused} of the last {self._messages} messages became dead letters: {share:.1%}, and "
            f"stream.error_budget allows {self._spec.share:.1%} within {self._spec.window_seconds:g} s",
            next_step="read the reasons in the dead-letter topic; when the cause is gone, start again and then "
            "run: batchinfer stream replay-dead-letters PIPELINE",
            messages=self._messages,
            refused=self._refused,
            share=share,
        )
