"""A service whose metrics all have values."""

from __future__ import annotations

import pytest

from service.demo.servers import Server
from tests.deploy.serving import serving
from tests.waiting import until

POLICIES = """
[policies.default]
limits = "2/minute"

[policies.trial]
limits = "1/minute"
shadow = true

[policies.strict]
limits = "100/minute"
on_error = "raise"
"""


@pytest.fixture(scope="session")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The metrics of a service that has allowed and denied, and has lost its store."""
    folder = tmp_path_factory.mktemp("metrics")
    policies = folder / "policies.toml"
    policies.write_text(POLICIES)
    variables = {"LIMITER_POLICIES": str(policies), "LIMITER_TIMEOUT": "1"}
    with (
        Server() as store,
        serving(folder, LIMITER_STORE=store.url, **variables) as service,
    ):
        for _ in range(3):
            service.ask("/forward-auth/default")
            service.ask("/forward-auth/trial")
        store.kill()
        for client in ("203.0.113.10", "203.0.113.11"):
            service.ask("/forward-auth/default", client)
            service.ask("/forward-auth/strict", client)
        policies.write_text("[policies.default]\n")
        until(lambda: "limiter_policy_file_refused 1" in service.metrics())
        return service.metrics()
