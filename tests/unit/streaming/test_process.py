"""What a stream tells its process holds as long as the stream."""

from __future__ import annotations

import sys

from batchinfer.streaming import tuned_process


def test_the_interval_of_pythons_lock_is_given_back_when_the_last_stream_of_a_process_ends() -> None:
    usual = sys.getswitchinterval()
    first, second = tuned_process(), tuned_process()
    first.__enter__()
    second.__enter__()
    assert sys.getswitchinterval() < usual
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == usual
