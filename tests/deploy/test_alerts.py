"""The alerts for Prometheus: checked and tried by promtool, and on real metrics."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.promql import missing, read
from tests.deploy.support import DEPLOY, ROOT, container, manifest, program, run

CASES = Path(__file__).parent / "alerts_test.yml"


def promtool(*words: str | Path) -> str:
    """Run promtool, which must find nothing wrong."""
    return run(program("promtool", "promtool"), *words)


def rules() -> list[dict[str, Any]]:
    """All alerts."""
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def test_prometheus_accepts_the_files() -> None:
    promtool("check", "config", "--lint=all", "--lint-fatal", DEPLOY / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", DEPLOY / "alerts.yml")


def test_prometheus_accepts_the_job_for_kubernetes(tmp_path: Path) -> None:
    """It stands in comments, and keeps the pods and the port that the Deployment names."""
    text = (DEPLOY / "prometheus.yml").read_text()
    _, _, commented = text.partition("  # - job_name")
    job = re.sub(r"^  # ", "  ", f"  # - job_name{commented}", flags=re.MULTILINE)
    config = tmp_path / "prometheus.yml"
    config.write_text(f"scrape_configs:\n{job}")
    promtool("check", "config", "--lint=all", "--lint-fatal", config)

    (rule, _) = yaml.safe_load(job)[0]["relabel_configs"]
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = [f"{labels['app.kubernetes.io/name']};{port['name']}" for port in container()["ports"]]
    assert [port for port in ports if re.fullmatch(rule["regex"], port)] == [ports[1]]
    assert container()["ports"][1]["containerPort"] == 8001


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", CASES)

    cases = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    for fires in (True, False):
        names = {case["alertname"] for case in cases if bool(case["exp_alerts"]) is fires}
        assert names == {rule["alert"] for rule in rules()}


@pytest.mark.slow
def test_the_alerts_ask_for_metrics_that_exist(metrics: str) -> None:
    series = read(metrics)
    for rule in rules():
        assert not missing(rule["expr"], series), rule["alert"]


def test_the_service_s_metrics_are_named_as_prometheus_wants(metrics: str) -> None:
    """The command reads standard input, and names each metric that breaks a convention."""
    done = subprocess.run(
        [program("promtool", "promtool"), "check", "metrics"],
        input=metrics,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_each_alert_names_a_section_of_the_runbook() -> None:
    page = (ROOT / "docs/runbook.md").read_text()
    sections = dict(section.split("\n", 1) for section in page.split("\n## ")[1:])
    by_anchor = {title.lower().replace(" ", "-"): text for title, text in sections.items()}
    for rule in rules():
        file, anchor = rule["annotations"]["runbook"].split("#")
        assert file == "docs/runbook.md"
        assert f"`{rule['alert']}`" in by_anchor[anchor]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["for"]
