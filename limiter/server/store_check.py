"""Looks at the store at the service's start, as ``limiter doctor`` does."""

from __future__ import annotations

import asyncio
from typing import Any

from limiter import LimiterError, StoreRefused
from limiter.doctor import PROMISES, Level, examine
from limiter.server import logs
from limiter.settings import from_environment, is_in_process


async def check_store() -> None:
    """Log a warning for each finding that an operator should know.

    Raises:
        StoreRefused: The limiter's promises do not hold on this server, whose name is in the message.

    """
    if is_in_process():
        return
    values: dict[str, Any] = {
        "prefix": "rl",
        "timeout": 0.1,
        **from_environment(None, {"limits": "1/second"}),
    }
    try:
        report = await asyncio.to_thread(
            examine, values["store"], values["prefix"], values["timeout"]
        )
    except LimiterError as error:
        logs.log.warning("the store could not be checked: %s", error)
        return
    for finding in report.findings:
        if finding.level is Level.FAULT and finding.topic in PROMISES:
            raise StoreRefused(f"{report.where}: {finding.topic}: {finding}")
        if finding.level is not Level.OK:
            logs.log.warning("%s: %s: %s", report.where, finding.topic, finding)
