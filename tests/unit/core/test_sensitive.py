"""Sensitive columns: what hashes are alike, what none tells, and under which key."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from batchinfer.core import HASH_SECRET, HIDDEN, Sensitive, without_values
from batchinfer.errors import SpecError

KEY = "correct horse battery staple, and then some"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HASH_SECRET, KEY)


def hashes(values: pa.Array, column: str = "name") -> list[str | None]:
    found: list[str | None] = Sensitive.of({"name": "hash", "nom": "hash"}).hashed(column, values).to_pylist()
    return found


def test_a_value_has_one_hash_in_every_encoding_and_width() -> None:
    texts = pa.array(["ada", None, "bob", "ada"])
    expected = hashes(texts)
    assert expected[0] == expected[3] != expected[2]
    assert expected[1] is None
    for encoded in (texts.dictionary_encode(), texts.cast(pa.large_string()), texts.cast(pa.string_view())):
        assert hashes(encoded) == expected
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["ada", None, "bob"]))
    assert hashes(words) == [*expected[:3], None]
    narrow, wide = pa.array([5, None, 40], pa.int16()), pa.array([5, None, 40], pa.uint64())
    assert hashes(narrow) == hashes(wide) == hashes(pa.array(["5", None, "40"]))
    assert hashes(pa.nulls(2)) == [None, None]
    assert hashes(texts[1:]) == expected[1:]


@pytest.mark.parametrize(
    "values", [[1.5], [True], [b"\xff\x00"], [[1, 2]], [{"a": "b"}]], ids=lambda v: type(v[0]).__name__
)
def test_every_type_has_hashes(values: list[object]) -> None:
    (found,) = hashes(pa.array(values))
    assert found is not None
    assert len(found) == len("hmac:") + 32


def test_a_hash_tells_neither_value_nor_column_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    ada = pa.array(["ada"])
    assert hashes(ada) != hashes(ada, "nom"), "the same in two columns would link them"
    before = hashes(ada)
    monkeypatch.setenv(HASH_SECRET, KEY[::-1])
    assert hashes(ada) != before


def test_the_key_does_not_travel_and_another_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sensitive = Sensitive.of({"name": "hash"})
    sent = pickle.dumps(sensitive)
    assert KEY.encode() not in sent
    assert KEY not in repr(sensitive)
    arrived: Sensitive = pickle.loads(sent)
    assert arrived.hashed("name", pa.array(["ada"])).to_pylist() == hashes(pa.array(["ada"]))
    monkeypatch.setenv(HASH_SECRET, KEY + "!")
    with pytest.raises(SpecError, match="another key") as refusal:
        arrived.hashed("name", pa.array(["ada"]))
    assert KEY not in str(refusal.value) + repr(refusal.value.fields)
    monkeypatch.delenv(HASH_SECRET)
    with pytest.raises(SpecError, match="is not set"):
        arrived.hashed("name", pa.array(["ada"]))


def test_a_short_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HASH_SECRET, "short")
    with pytest.raises(SpecError, match="has 5 characters"):
        Sensitive.of({"name": "hash"})
    assert Sensitive.of({"name": "drop"}).key_id is None, "nothing is hashed, and no key is needed"


def test_a_batch_is_hidden_column_by_column() -> None:
    sensitive = Sensitive.of({"name": "hash", "ssn": "drop"})
    batch = pa.record_batch({"id": [1, 2], "name": ["ada", "bob"], "ssn": [7, 8]})
    hidden = sensitive.hide(batch)
    assert hidden.schema.names == ["id", "name"]
    assert hidden["name"].to_pylist() == hashes(pa.array(["ada", "bob"]))
    assert sensitive.hide_table(pa.table(batch).slice(0, 0)).column_names == ["id", "name"]
    assert sensitive.hide_table(pa.table(batch)).to_pylist() == hidden.to_pylist()
    assert sensitive.shown("ssn", batch["ssn"]).to_pylist() == [HIDDEN, HIDDEN]
    assert [f.type for f in sensitive.fields(batch.schema)] == [pa.int64(), pa.string()]
    assert sensitive.asked("name", "ada") == sensitive.asked("name", str(hashes(pa.array(["ada"]))[0]))


def test_what_a_runtime_says_of_a_row_is_cut_and_our_own_words_are_kept() -> None:
    assert without_values("the model failed: no label for 'ada'\nat node 3") == "the model failed"
    assert without_values("the model cannot score 9 of 9 rows; the first: 'ada'") == (
        "the model cannot score 9 of 9 rows"
    )
    assert without_values("null in 'age'") == "null in 'age'"
