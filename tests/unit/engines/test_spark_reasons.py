"""What keeps Spark from starting: what would be refused again is never said to be transient."""

from __future__ import annotations

import socket

import pytest

from batchinfer.engines import _spark_session, open_engine
from batchinfer.engines._spark import _why as why_of_job
from batchinfer.engines._spark_session import _why as why_of_session
from batchinfer.errors import RunFailed, SpecError, Transient, UsageError
from batchinfer.spec import EngineSpec

_CALL = "An error occurred while calling None.org.apache.spark.api.java.JavaSparkContext.\n: {}\n\tat org.x\n"


@pytest.mark.parametrize(
    ("text", "where", "kind", "says"),
    [
        (
            _CALL.format(
                "org.apache.spark.SparkIllegalArgumentException: Executor memory 1 must be at least"
            ),
            "spark://master:7077",
            SpecError,
            "Executor memory 1 must be at least",
        ),
        (
            "[INVALID_CONF_VALUE.TYPE_MISMATCH] The value 'abc' in the config is invalid.",
            "sc://server:15002",
            SpecError,
            "The value 'abc'",
        ),
        (
            _CALL.format("java.net.BindException: Cannot assign requested address"),
            "local[2]",
            UsageError,
            "BindException",
        ),
        (
            _CALL.format("java.net.ConnectException: Connection refused"),
            "k8s://https://host:443",
            Transient,
            "ConnectException",
        ),
    ],
)
def test_a_session_that_cannot_be_made_says_why_and_whether_to_try_again(
    text: str, where: str, kind: type[Exception], says: str
) -> None:
    found = why_of_session(Exception(text), where)
    assert type(found) is kind
    assert says in str(found)
    assert "An error occurred while calling" not in str(found)


def test_a_job_that_failed_says_what_its_task_said() -> None:
    text = _CALL.format('org.apache.spark.SparkException: Job aborted: Cannot run program "/no/python"')
    found = why_of_job(Exception(text))
    assert type(found) is RunFailed
    assert found.message == (
        'Spark failed: org.apache.spark.SparkException: Job aborted: Cannot run program "/no/python"'
    )


def test_a_server_that_is_no_connect_server_is_not_tried_for_ten_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_spark_session, "_CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = f"sc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Transient, match=r"no Connect server answered within 0\.2 s"):
            open_engine(EngineSpec(kind="spark", remote=remote))


@pytest.mark.parametrize("key", ["master", "remote"])
def test_a_port_that_is_none_is_not_transient(key: str) -> None:
    address = {"master": "spark://host:port", "remote": "sc://host:port"}[key]
    with pytest.raises(SpecError, match="port"):
        open_engine(EngineSpec.model_validate({"kind": "spark", key: address}))
