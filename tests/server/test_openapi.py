"""The OpenAPI document matches the code: its paths, and the responses to valid and invalid requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from flask import Service
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from limiter import __version__

Make = Callable[..., Service]

POLICIES = """
[policies.api]
limits = "100/second; 1000/minute"
exempt.keys = ["0"]

[policies.shadow]
limits = "1/minute"
shadow = true

[policies.jobs]
limits = [{ algorithm = "concurrency", limit = 20, lease = 1 }, "100/second"]
"""
EXAMPLES = 40
#: Refusals that a schema cannot describe: they depend on the policy, or on another member.
ALLOWED_TO_REFUSE = re.compile(
    "This policy counts|more than this policy|lease is missing|surrogate"
)
NAMES = ["api", "shadow", "jobs", "nobody"]


TOKEN = "a-token-of-enough-length"  # noqa: S105


@pytest.fixture
def app(make_by_file: Make, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The service, which trusts callers without an address, and accepts many wrong tokens."""
    monkeypatch.setattr("limiter.server.callers.WRONG_TOKENS", "10000/minute")
    return make_by_file(POLICIES, ADMIN_TOKEN=TOKEN, TRUSTED_PROXIES="unix,127.0.0.0/8")


OPERATIONS = ["check", "hold", "giveBack", "refund", "openapi"]
OF_OPERATORS = ["metrics", "policies", "lookAt", "reset"]
#: Their requests have nothing that could be invalid, except for the token, which each mode removes.
NEVER_WRONG = ["openapi", *OF_OPERATORS]


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize("name", OPERATIONS + OF_OPERATORS)
def test_every_response_is_described(app: Service, name: str, mode: GenerationMode) -> None:
    """The document has each status, type, header and body; none is 500, and no invalid request passes."""
    document = schemathesis.openapi.from_wsgi("/v1/openapi.json", app)
    headers = {}
    if name in OF_OPERATORS:
        document.app = app.extensions["operators"]
        headers = {"Authorization": f"Bearer {TOKEN}"}
    operation = document.find_operation_by_id(name)
    if name in NEVER_WRONG and mode is GenerationMode.NEGATIVE:
        return

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        policy = case.path_parameters.get("policy")
        if mode is GenerationMode.POSITIVE and isinstance(policy, str):
            case.path_parameters["policy"] = NAMES[len(policy) % len(NAMES)]
        answer = case.call(headers=headers)
        case.validate_response(answer, headers=headers, excluded_checks=[positive_data_acceptance])
        if mode is GenerationMode.POSITIVE and answer.status in (400, 415, 422):
            assert ALLOWED_TO_REFUSE.search(answer.json()["detail"]), answer.json()

    ask()


def test_the_document_has_the_paths_of_the_code(app: Service) -> None:
    document = app.test_client().get("/v1/openapi.json").json()

    def said(by_operators: bool) -> set[tuple[str, str]]:
        return {
            (path, method.upper())
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method != "servers" and ("operators" in operation.get("tags", ())) == by_operators
        }

    def served(by: Service, prefix: str) -> set[tuple[str, str]]:
        return {
            (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
            for rule in by.url_map.iter_rules()
            if rule.rule.startswith(prefix)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }

    assert said(by_operators=False) == served(app, "/v1/")
    assert said(by_operators=True) == served(app.extensions["operators"], "/")
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == __version__
