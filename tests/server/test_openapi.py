"""The OpenAPI document matches the code: its paths, and the responses to valid and invalid requests."""

from __future__ import annotations

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.applications import Starlette
from starlette.routing import Route

from limiter import __version__
from limiter.server.forward_auth import PATH
from tests.server.client import Running, under_uvicorn
from tests.server.conftest import Make

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
EXAMPLES = 20
#: A body of many items takes long to draw.
EXAMPLES_OF_ITEMS = 10
#: Refusals that a schema cannot describe: they depend on the policy, on another member, or on escapes.
ALLOWED_TO_REFUSE = re.compile(
    "policy counts|is no policy|ever admits at once|one item|lease is missing|surrogate"
    "|does not report|readings"
)
NAMES = ["api", "shadow", "jobs", "nobody"]

TOKEN = "a-token-of-enough-length"  # noqa: S105

OF_PROXIES = ["forwardAuth", "forwardAuthByPolicy"]
OF_ITEMS = ["reserve", "settle", "cancel"]
OPERATIONS = ["check", "hold", "giveBack", "refund", *OF_ITEMS, "openapi"]
OF_OPERATORS = ["metrics", "policies", "shadow", "lookAt", "reset"]
#: Their requests have nothing that could be invalid, except for the token, which each mode removes.
NEVER_WRONG = ["openapi", *OF_OPERATORS]


@pytest.fixture
def running(make_by_file: Make, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The service, which trusts this machine, and accepts many wrong tokens."""
    monkeypatch.setattr("limiter.server.callers.WRONG_TOKENS", "10000/minute")
    return make_by_file(POLICIES, ADMIN_TOKEN=TOKEN, TRUSTED_PROXIES="unix,127.0.0.0/8")


def use_known_policies(case: Any) -> None:
    """Replace the policies that a valid request names: most others do not exist."""
    items = case.body.get("items", ()) if isinstance(case.body, dict) else ()
    for owner in (case.path_parameters, *items):
        name = owner.get("policy")
        if isinstance(name, str):
            owner["policy"] = NAMES[len(name) % len(NAMES)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        for name in OF_PROXIES + OPERATIONS + OF_OPERATORS
        for mode in GenerationMode
        if name not in NEVER_WRONG or mode is GenerationMode.POSITIVE
    ],
    ids=lambda each: str(getattr(each, "value", each)),
)
def test_every_response_is_described(running: Running, name: str, mode: GenerationMode) -> None:
    """The document has each status, type, header and body; none is 500, and no invalid request passes."""
    with under_uvicorn(running.service) as (public, operators):
        document = schemathesis.openapi.from_url(f"{public}/v1/openapi.json")
        address, headers = public, {}
        if name in OF_OPERATORS:
            address, headers = operators, {"Authorization": f"Bearer {TOKEN}"}
        operation = document.find_operation_by_id(name)

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES_OF_ITEMS if name in OF_ITEMS else EXAMPLES,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            if mode is GenerationMode.POSITIVE:
                use_known_policies(case)
            answer = case.call(base_url=address, headers=headers)
            excluded = [positive_data_acceptance]
            if answer.status_code == 413:  # a refusal, too, which Schemathesis does not expect
                excluded.append(negative_data_rejection)
            case.validate_response(answer, headers=headers, excluded_checks=excluded)
            if mode is GenerationMode.POSITIVE and answer.status_code in (400, 415, 422):
                assert ALLOWED_TO_REFUSE.search(answer.json()["detail"]), answer.json()

        ask()


def test_the_document_has_the_paths_of_the_code(running: Running) -> None:
    document = running.client.get("/v1/openapi.json").json()

    def documented(tag: str) -> set[tuple[str, str]]:
        return {
            (path, method.upper())
            for path, item in document["paths"].items()
            for method, operation in item.items()
            if method != "servers" and operation.get("tags", [""]) == [tag]
        }

    def served(by: Starlette, prefix: str) -> set[tuple[str, str]]:
        return {
            (re.sub(r"{(\w+):\w+}", r"{\1}", route.path), method)
            for route in by.routes
            if isinstance(route, Route) and route.path.startswith(prefix)
            for method in (route.methods or set()) - {"HEAD"}
        }

    assert documented("") == served(running.service.public, "/v1/")
    assert documented("operators") == served(running.service.operators, "/")
    assert documented("proxies") == {(PATH, "GET"), (f"{PATH}/{{policy}}", "GET")}
    assert document["openapi"].startswith("3.1")
    assert document["info"]["version"] == __version__
