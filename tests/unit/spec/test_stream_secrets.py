"""The secrets of a Kafka client come from the environment, and a spec that holds one is refused without showing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchinfer.errors import SpecError
from batchinfer.spec import load_spec

PIPELINE = Path(__file__).parents[3] / "pipelines" / "flight_delay"


def loaded(**settings: Any) -> Any:
    spec = load_spec(PIPELINE, **{"stream.consumer_settings": settings})
    assert spec.stream is not None
    return spec.stream.consumer_settings


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "ssl.key.password",
        "sasl.oauthbearer.client.secret",
        "ssl.key.pem",
        "sasl_plain_password",
        "sasl.jaas.config",
    ],
)
@pytest.mark.parametrize(
    "value", ["hunter2hunter2", "${UNSET:-hunter2hunter2}", "${A}hunter2hunter2", ["hunter2hunter2"]]
)
def test_a_secret_in_the_spec_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=r"consumer_settings\..*from the environment alone") as refused:
        loaded(**{name: value})
    assert name in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_secret_of_the_environment_and_what_is_none_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2hunter2")
    stated = {
        "sasl.password": "${KAFKA_PASSWORD}",
        "sasl.oauthbearer.token.endpoint.url": "https://idp.example.com/token",
        "ssl.key.location": "/etc/batchinfer/client.key",
    }
    assert loaded(**stated) == stated | {"sasl.password": "hunter2hunter2"}


def test_a_setting_of_a_wrong_kind_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError) as refused:
        loaded(other=["hunter2hunter2"])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("value", [{"password": "geheim"}, None, ["PLAIN"]])
def test_a_setting_that_is_no_value_is_named_once_and_not_shown(value: object) -> None:
    with pytest.raises(SpecError, match="client setting 'sasl' takes text") as caught:
        loaded(sasl=value)
    assert "geheim" not in str(caught.value)
    assert str(caught.value).count("pipeline.yaml") == 1
