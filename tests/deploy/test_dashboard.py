"""The Grafana dashboard: its form, and its queries on the metrics of a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deploy.promql import Series, missing, read
from tests.deploy.support import DEPLOY, program, run

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def expressions() -> Iterator[tuple[str, str]]:
    """Each query as Grafana sends it with all instances and policies chosen, with its panel's title."""
    values = {"$instance": ".*", "$policy": ".*", "$__rate_interval": "1m"}
    for panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in values.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression
            yield panel["title"], expression


def as_grafana_reads_it(dashboard: dict[str, Any]) -> dict[str, Any]:
    """The same dashboard, from classes that are made of Grafana's schemas: they drop unknown fields."""
    register_default_plugins()
    read = Dashboard.from_json(dashboard)
    found: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(read))
    return found


def unknown(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """The places of a dashboard that Grafana's classes do not have, or read in another way."""
    if isinstance(given, dict) and isinstance(known, dict):
        for name, value in given.items():
            if name in known:
                yield from unknown(value, known[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for number, pair in enumerate(zip(given, known, strict=True)):
            yield from unknown(*pair, f"{path}[{number}]")
    elif given != known:
        yield path


def test_grafana_knows_every_field() -> None:
    assert list(unknown(DASHBOARD, as_grafana_reads_it(DASHBOARD))) == []

    wrong = json.loads(json.dumps(DASHBOARD).replace('"lineWidth"', '"lineWide"', 1))
    lost = list(unknown(wrong, as_grafana_reads_it(wrong)))
    assert [path.rpartition(".")[2] for path in lost] == ["lineWide"]


def test_grafana_can_import_it() -> None:
    """What an import needs: no id of another Grafana, a schema version, and a data source to choose."""
    assert "id" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] >= 36  # from Grafana 9 on; an older one is migrated
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("instance", "policy"):
        assert variables[name]["type"] == "query"
        assert variables[name]["datasource"] == SOURCE
        assert variables[name]["allValue"] == ".*"
    for panel in PANELS:
        assert panel["datasource"] == SOURCE
        assert all(target["datasource"] == SOURCE for target in panel["targets"])


def test_each_panel_has_a_place_and_a_text() -> None:
    places = [panel["gridPos"] for panel in PANELS]

    assert (
        len({panel["id"] for panel in PANELS}) == len({p["title"] for p in PANELS}) == len(PANELS)
    )
    assert all(panel["description"].endswith(".") for panel in PANELS)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@pytest.mark.slow
def test_its_queries_ask_for_metrics_that_exist(metrics: str) -> None:
    """Names of metrics, labels, and values of labels, such as outcome="denied"."""
    series = read(metrics)
    for title, expression in expressions():
        assert not missing(expression, series), title
    queries = [each["query"]["query"] for each in DASHBOARD["templating"]["list"][1:]]
    for query in queries:
        selector, label = query.removeprefix("label_values(").removesuffix(")").split(", ")
        assert not missing(selector, series)
        assert any(label in each.labels for each in series if selector.startswith(each.name))


@pytest.mark.slow
def test_it_shows_every_metric(metrics: str) -> None:
    shown = " ".join(expression for _, expression in expressions())
    names = {each.name for each in read(metrics)} - {"limiter_decision_seconds_sum"}
    names = {name for name in names if not name.endswith("_created")}

    assert names
    assert not [name for name in names if name not in shown]


@pytest.mark.slow
def test_each_query_has_a_result(metrics: str, tmp_path: Path) -> None:
    """Prometheus's own evaluation, on the series of a real service: each of them grows.

    An alert for each query fires if the query has a result.
    """
    series = read(metrics)
    queries = list(expressions())
    rules = [
        {"alert": f"query{number}", "expr": f"count({expression}) > 0"}
        for number, (_, expression) in enumerate(queries)
    ]
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]})
    )
    test = {
        "interval": "15s",
        "input_series": [_growing(each) for each in series],
        "alert_rule_test": [
            {"alertname": rule["alert"], "eval_time": "5m", "exp_alerts": [{"exp_labels": {}}]}
            for rule in rules
        ],
    }
    cases = tmp_path / "cases.yml"
    cases.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))

    run(program("promtool", "promtool"), "test", "rules", cases)


def _growing(series: Series) -> dict[str, str]:
    return {"series": str(series), "values": "0+1x40"}
