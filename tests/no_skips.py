"""Under ``CI=true`` a test that was skipped fails the run: there, every tool has to be present."""

from __future__ import annotations

import os

import pytest


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn success into failure when something was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run fails."""
    if terminalreporter.stats.get("skipped") and os.environ.get("CI") == "true":
        terminalreporter.write_line("CI=true: a skipped test fails the run", red=True)
