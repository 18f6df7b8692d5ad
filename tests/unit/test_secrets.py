"""Secrets in texts: found by where they stand and by what the environment holds, and nothing else is touched."""

from __future__ import annotations

import pickle

import pytest

from batchinfer.errors import StoreError
from batchinfer.secrets import without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at postgresql://me:hunter2@host/db#t", "at postgresql://me:***@host/db#t"),
        ("postgresql://me:p@ss:word@host/db", "postgresql://me:***@host/db"),
        ("s3://AKIA:abc+def@bucket/x and gs://b", "s3://AKIA:***@bucket/x and gs://b"),
        ("postgresql://host/db?sslmode=require&password=hunter2#t", "postgresql://host/db?sslmode=require&password=***#t"),
        ("sc://host:15002/;token=abc;user_id=me", "sc://host:15002/;token=***;user_id=me"),
        ("https://b.s3.amazonaws.com/k?X-Amz-Signature=1a2b&x=1", "https://b.s3.amazonaws.com/k?X-Amz-Signature=***&x=1"),
        ("host=h user=me password='a b' dbname=d", "host=h user=me password=*** dbname=d"),
        ("{'sasl.password': 'x y', 'a': 1}", "{'sasl.password': '***', 'a': 1}"),
        ('{"aws_secret_access_key": "abc"}', "{\"aws_secret_access_key\": '***'}"),
        ("spark.hadoop.fs.s3a.secret.key=abc123", "spark.hadoop.fs.s3a.secret.key=***"),
        ('password="abc";', "password=***;"),
    ],
)  # fmt: skip
def test_a_secret_is_taken_out_where_it_stands(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        'FATAL: password authentication failed for user "me"',
        "output.path: states a password; set PGPASSWORD or write it into ~/.pgpass",
        "postgresql://me@host:5432/db#public.t",
        "the key id=7, keys=[1], monkey=1, tokens=512, input.key: [id]",
        "http://127.0.0.1:9000/bucket?endpoint_override=x:1",
        "2013-01-08T10:00:00 see https://host/a:b@c",
    ],
)
def test_other_words_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


def test_what_the_environment_calls_a_secret_is_one_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "PGPASSWORD": "hunter2hunter2",
        "ALERT_WEBHOOK": "https://hooks.example.com/T0/B0/XyZ",
        "MY_TOKEN": "short",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token.file",
        "SORT_KEY": "carrier_name",
    }.items():
        monkeypatch.setenv(name, value)
    said = "wJalrXUtnFEMI/K7MDENG AKIAIOSFODNN7EXAMPLE hunter2hunter2 https://hooks.example.com/T0/B0/XyZ"
    assert without_secrets(said) == "*** *** *** ***"
    left = "short /run/token.file carrier_name"
    assert without_secrets(left) == left


def test_errors_hold_none_in_message_step_and_fields_also_when_they_have_travelled() -> None:
    url = "postgresql://me:hunter2@host/db#t"
    error = StoreError(f"{url}: no", next_step=f"try {url}", path=url, more={"urls": [url], "n": 3})
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert "hunter2" not in f"{one!r} {one} {one.fields}"
        assert one.fields["more"]["n"] == 3
        assert one.fields["path"] == "postgresql://me:***@host/db#t"
