"""A spec is read once and frozen; what is wrong with it is answered by file, key, allowed, found, nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from batchinfer.errors import BatchinferError, ModelError, SpecError
from batchinfer.spec import EngineSpec, PipelineSpec, load_spec, parse_spec, validate

MINIMAL: dict[str, Any] = {
    "name": "flight-delay",
    "model": "flight-delay@champion",
    "input": {"path": "data/ds={ds}", "key": ["flight_id"]},
    "output": {"path": "results/flight_delay"},
}


def write(folder: Path, document: dict[str, Any] | str) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def parse(**sections: Any) -> PipelineSpec:
    return parse_spec({**MINIMAL, **sections}, file=Path("p/pipeline.yaml"))


def refusal(**sections: Any) -> str:
    with pytest.raises(SpecError) as refused:
        parse(**sections)
    assert refused.value.exit_code == 2
    return refused.value.message


def test_a_minimal_spec_has_the_documented_defaults(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, MINIMAL))
    assert spec.output.store == "delta"
    assert (spec.output.partition_by, spec.output.carry) == ((), ())
    assert (spec.quality.on_failure, spec.quality.max_quarantined) == ("quarantine", 0.05)
    assert (spec.engine.kind, spec.engine.threads) == ("local", None)
    assert spec.transform is None
    assert spec.folder == tmp_path


def test_a_folder_stands_for_its_pipeline_yaml(tmp_path: Path) -> None:
    assert load_spec(tmp_path / "pipeline.yaml" if write(tmp_path, MINIMAL) else "") == load_spec(tmp_path)


@pytest.mark.parametrize("field", ["name", "input", "folder"])
def test_a_spec_is_frozen(field: str) -> None:
    with pytest.raises(ValidationError):
        setattr(parse(), field, "other")


def test_sections_are_frozen_too() -> None:
    spec = parse()
    with pytest.raises(ValidationError):
        spec.input.path = "elsewhere"
    assert isinstance(spec.input.key, tuple)


def test_an_unknown_key_is_answered_with_the_nearest_one() -> None:
    assert "unknown key 'modle'; did you mean 'model'?" in refusal(modle="x")
    assert "unknown key 'output.cary'; did you mean 'carry'?" in refusal(output={"path": "r", "cary": []})
    assert "unknown key 'engine.x'; allowed here: address, conf, device, " in refusal(engine={"x": 1})


def test_the_specs_own_folder_is_no_key() -> None:
    message = refusal(folder="/tmp")
    assert "unknown key 'folder'" in message
    assert ", folder" not in message.replace("key 'folder'", "")


def test_all_that_is_wrong_is_told_at_once_with_the_file() -> None:
    message = refusal(name="", quality={"max_quarantined": 2}, input={"path": "x"})
    assert len(message.splitlines()) == 3
    assert all(line.startswith("p/pipeline.yaml: ") for line in message.splitlines())
    assert "'input.key' is missing" in message
    assert "'quality.max_quarantined': input should be less than or equal to 1, found 2" in message


def test_a_section_that_is_no_mapping_is_told_in_the_spec_s_own_words() -> None:
    assert "'engine': takes keys of its own, found 'local'" in refusal(engine="local")
    assert "'quality': takes keys of its own, found nothing" in refusal(quality=None)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"name": "flight delay"}, "'name'"),
        ({"name": "../escape"}, "'name'"),
        ({"input": {"path": "x", "key": []}}, "'input.key'"),
        ({"input": {"path": "", "key": ["id"]}}, "'input.path'"),
        ({"output": {"path": "r", "store": "oracle"}}, "'output.store'"),
        ({"engine": {"threads": 0}}, "'engine.threads'"),
        ({"engine": {"threads": 1.5}}, "'engine.threads'"),
        ({"engine": {"threads": "1.5"}}, "'engine.threads'"),
        ({"engine": {"threads": "two"}}, "'engine.threads'"),
        ({"engine": {"threads": True}}, "'engine.threads'"),
        ({"quality": {"max_quarantined": True}}, "'quality.max_quarantined'"),
        ({"quality": {"max_quarantined": "much"}}, "'quality.max_quarantined'"),
        ({"quality": {"max_quarantined": "nan"}}, "'quality.max_quarantined'"),
        ({"transform": "features.py"}, "'transform'"),
        ({"transform": "features:build"}, "'transform'"),
        ({"quality": {"max_quarantined": -0.1}}, "'quality.max_quarantined'"),
        ({"model": 3}, "'model'"),
    ],
    ids=str,
)
def test_a_wrong_value_names_its_key(sections: dict[str, Any], said: str) -> None:
    assert said in refusal(**sections)


def test_a_list_with_a_wrong_item_is_not_said_to_be_too_short_too() -> None:
    assert "at least 1 item" in refusal(engine={"providers": []})
    assert "at least 1 item" not in refusal(engine={"providers": ["rocm"]})


def test_columns_that_results_could_not_tell_apart_are_refused() -> None:
    assert "'id' is named twice" in refusal(
        input={"path": "x", "key": ["id"]}, output={"path": "r", "carry": ["id"]}
    )
    assert "'ds' is a partition column already" in refusal(
        output={"path": "r", "partition_by": ["ds"], "carry": ["ds"]}
    )
    assert "'ds' is named twice in output.partition_by" in refusal(
        output={"path": "r", "partition_by": ["ds", "ds"]}
    )
    assert "names with a leading _ are kept for lineage" in refusal(input={"path": "x", "key": ["_id"]})


def test_a_single_name_where_a_list_belongs_is_shown_as_a_list() -> None:
    said = "takes a list, as [flight_id], found 'flight_id'"
    assert f"'input.key': {said}" in refusal(input={"path": "x", "key": "flight_id"})
    for key in ("partition_by", "carry"):
        assert f"'output.{key}': {said}" in refusal(output={"path": "r", key: "flight_id"})
    assert "'output.carry': takes a list, found 3" in refusal(output={"path": "r", "carry": 3})


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")
    column: str = ""


class Tree(BaseModel):
    leaves: dict[str, Leaf]


def test_an_unknown_key_below_a_name_of_ones_own_is_answered_with_the_nearest_one_too() -> None:
    with pytest.raises(SpecError, match=r"unknown key 'leaves\.a\.b\.colum'; did you mean 'column'\?"):
        validate(Tree, {"leaves": {"a.b": {"colum": "x"}}}, name="tree.yaml")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    spec = load_spec(path, **{"output.path": "elsewhere", "engine.threads": 2, "name": "other"})
    assert (spec.output.path, spec.engine.threads, spec.name) == ("elsewhere", 2, "other")


def test_an_override_is_checked_like_any_key(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    with pytest.raises(SpecError, match=r"unknown key 'output\.pth'; did you mean 'path'"):
        load_spec(path, **{"output.pth": "x"})
    with pytest.raises(SpecError, match=r"cannot set 'name\.first': 'name' holds a value, not keys"):
        load_spec(path, **{"name.first": "x"})


def test_environment_blanks_are_filled_in_overrides_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESULTS", "s3://bucket")
    path = write(tmp_path, {**MINIMAL, "output": {"path": "${RESULTS}/delay"}})
    assert load_spec(path).output.path == "s3://bucket/delay"
    monkeypatch.setenv("THREADS", "3")
    numbers = {"engine.threads": "${THREADS:-2}", "quality.max_quarantined": "${NOT_SET:-0.25}"}
    filled = load_spec(path, **numbers)
    assert (filled.engine.threads, filled.quality.max_quarantined) == (3, 0.25)
    assert load_spec(path, **{"input.path": "${NOT_SET:-data}/in"}).input.path == "data/in"
    with pytest.raises(SpecError, match=r"output\.path: the environment variable NOT_SET is not set"):
        load_spec(path, **{"output.path": "${NOT_SET}"})


def test_a_spec_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere\.yaml: cannot read the pipeline spec: No such file"):
        load_spec(tmp_path / "nowhere.yaml")
    (tmp_path / "pipeline.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8 text"):
        load_spec(tmp_path)


def test_findings_can_be_raised_as_another_error() -> None:
    with pytest.raises(ModelError, match=r"model\.yaml: unknown key 'thread'; did you mean 'threads'"):
        validate(EngineSpec, {"thread": 1}, name="model.yaml", error=ModelError)
    assert issubclass(ModelError, BatchinferError)


def test_the_digest_covers_what_can_change_a_result_row_and_nothing_else(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, MINIMAL))

    def digest(**overrides: Any) -> str:
        return load_spec(tmp_path, **overrides).digest()

    assert spec.digest() == digest()
    for same in ({"model": "other@1"}, {"registry": "r"}, {"engine.threads": 3}):
        assert digest(**same) == spec.digest()
    for other in ({"input.key": ["id"]}, {"output.carry": ["x"]}, {"quality.on_failure": "fail"}):
        assert digest(**other) != spec.digest()


def test_the_digest_covers_the_transforms_source(tmp_path: Path) -> None:
    write(tmp_path, {**MINIMAL, "transform": "features.py:build"})
    spec = load_spec(tmp_path)
    assert spec.transform_file == tmp_path / "features.py"
    (tmp_path / "features.py").write_text("def build(batch): return batch")
    before = spec.digest()
    (tmp_path / "features.py").write_text("def build(batch): return batch.slice(0)")
    assert spec.digest() != before


def test_the_specs_own_folder_cannot_be_overridden_either(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown key 'folder'"):
        load_spec(write(tmp_path, MINIMAL), folder="elsewhere")
