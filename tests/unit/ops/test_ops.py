"""What lies in docker/ is read by the tools that know it, and asks for metrics that the code has."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.listener import listening

from batchinfer.telemetry import METRICS

ROOT = Path(__file__).parents[3]


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lint = load(ROOT / "docker" / "lint.py")


@pytest.mark.parametrize("check", lint.FAST, ids=lambda check: check.__name__)
def test_the_tools_that_read_it_find_nothing_wrong(check: Callable[[], None]) -> None:
    try:
        check()
    except lint.Skipped as e:
        pytest.skip(str(e))


def test_rules_and_dashboards_ask_for_metrics_of_runs_that_there_are() -> None:
    asked = {name for name in lint.metrics() if not name.startswith("batchinfer_stream_")}
    assert asked <= {metric.name for metric in METRICS}
    assert len(asked) > 20


def test_rules_and_dashboards_ask_for_metrics_of_the_stream_that_there_are() -> None:
    module = pytest.importorskip("batchinfer.streaming._metrics", reason="there is no stream yet")
    source = inspect.getsource(module)
    told = {
        f"batchinfer_stream_{name}" + ("_total" if kind == "counter" else "")
        for kind, name in re.findall(r'(counter|gauge)\(\s*"(\w+)"', source)
    }
    histograms = set(re.findall(r'"(batchinfer_stream_\w+)"', source))
    told |= {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    asked = {name for name in lint.metrics() if name.startswith("batchinfer_stream_")}
    assert asked <= told


def test_every_metric_of_runs_is_documented() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in page] == []


def test_every_alert_is_documented() -> None:
    page = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    assert [alert for alert in lint.alerts() if f"`{alert}`" not in page] == []


def test_every_secret_of_the_stack_has_an_example_and_none_a_value_of_its_own() -> None:
    stack = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)", stack))
    example = dict(
        line.split("=", 1)
        for line in (ROOT / "docker" / ".env.example").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    assert asked == example.keys()
    required = set(re.findall(r"\$\{(\w+):\?", stack))
    assert required == asked - {"OPENLINEAGE_URL"}


@pytest.mark.parametrize("file", ["Dockerfile", "gpu.Dockerfile"])
def test_images_install_extras_that_there_are_by_the_constraints_and_run_as_nobody(file: str) -> None:
    import tomllib

    text = (ROOT / "docker" / file).read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra ([\w-]+)", text)) <= extras.keys()
    assert text.count("uv pip install") == text.count("--constraint constraints.txt") + text.count(
        "--no-deps"
    )
    last = text.rsplit("FROM ", 1)[1]
    assert "USER 10001:10001" in last and "HEALTHCHECK" in last
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for copied in re.findall(r"^COPY (?:--chown=\S+ )?([^-\n].*) \S+$", text, re.MULTILINE):
        for source in copied.split():
            assert f"!{source}" in allowed, f"{source} does not travel to the builder"
            assert (ROOT / source).exists()


def test_the_spark_of_the_image_is_where_its_environment_says() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    python = re.search(r"FROM python:(\d+\.\d+)\.", text)
    assert python is not None
    assert f"SPARK_HOME=/opt/venv/lib/python{python[1]}/site-packages/pyspark" in text


def test_the_autoscaler_reads_the_group_and_topic_of_the_stream() -> None:
    (scaled,) = yaml.safe_load_all((ROOT / "docker/kubernetes/scaling.yaml").read_text())
    spec = yaml.safe_load((ROOT / "pipelines/flight_delay/pipeline.yaml").read_text())
    (trigger,) = scaled["spec"]["triggers"]
    stream = spec.get("stream", {})
    assert trigger["metadata"]["consumerGroup"] == stream.get("group", f"batchinfer-{spec['name']}")
    assert trigger["metadata"]["topic"] == stream.get("input_topic", "flights")
    assert int(trigger["metadata"]["lagThreshold"]) > 0


def test_the_healthcheck_says_what_the_service_answers() -> None:
    def code(url: str | None) -> int:
        environment = {**os.environ, **({} if url is None else {"BATCHINFER_HEALTH_URL": url})}
        check = [sys.executable, "-S", str(ROOT / "docker" / "healthcheck.py")]
        return subprocess.run(check, env=environment, capture_output=True, check=False).returncode

    with listening() as listener:
        assert code(f"{listener.url}/healthz") == 0
        listener.status = 503
        assert code(f"{listener.url}/healthz") == 1
        gone = listener.url
    assert code(gone) == 1
    assert code(None) == 0
