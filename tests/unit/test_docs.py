"""The pages of the documentation: their code can be read by what runs it, and their links lead somewhere."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from batchinfer.spec import PipelineSpec

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_of_a_page_can_be_read(page: Path) -> None:
    for language, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                compile(code, str(page), "exec")
        elif language == "yaml":
            for document in yaml.safe_load_all(code):
                assert isinstance(document, dict), code
                _check_sections(document)
        elif language == "json":
            json.loads(code.replace("{…}", "{}"))


def _check_sections(document: dict[str, object]) -> None:
    """Where a block shows a whole spec, its sections are those that a spec has."""
    if {"name", "model", "input", "output"} <= document.keys():
        assert document.keys() <= PipelineSpec.model_fields.keys() | {"stream"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / unquote(path) if path else page
        assert target.exists(), link
        if heading and target.suffix == ".md":
            titles = _HEADING.findall(target.read_text(encoding="utf-8"))
            assert heading in {_anchor(title) for title in titles}, link


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
