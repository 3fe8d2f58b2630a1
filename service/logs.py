"""Log lines about decisions, by the standard logging module.

Each record has a text and fields (``extra``); ``set_up`` writes both as one line of JSON. No line has a
secret, or a readable subject.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone

from flask import request

from limiter.log_throttle import ThrottleFilter
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.subjects import disguised
from limiter.web.verdict import Verdict

log = logging.getLogger("limiter.service")
#: Changes by operators, and refunds: one line for each, never throttled.
audit = logging.getLogger("limiter.service.audit")

#: Loggers with lines about single requests, which clients could cause in any number. The last two are those
#: of the Flask applications.
_OF_CALLS = ("limiter", "limiter.web", "limiter.service", "service.app", "service.operators")

_OF_EVERY_RECORD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(level: int) -> None:
    """Set up logging in the service's own process: JSON lines, with repeated ones throttled.

    They go to standard error, unless the loggers have handlers already.
    """
    calm()
    logger = logging.getLogger("limiter")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(AsJson())
        logger.addHandler(handler)
    logger.setLevel(level)


def calm() -> Callable[[], None]:
    """Throttle the lines about single requests; the returned function ends that."""
    throttle = ThrottleFilter()
    loggers = [logging.getLogger(name) for name in _OF_CALLS]
    for logger in loggers:
        logger.addFilter(throttle)

    def end() -> None:
        for logger in loggers:
            logger.removeFilter(throttle)

    return end


def denied(verdict: Verdict) -> None:
    """Log that a limit denied, with a hash of the subject; the lines are throttled."""
    if isinstance(verdict.error, TooManyNewSubjects):
        log.info("a client began too many subjects", extra={"policy": verdict.error.policy})
    for policy, decision, part in verdict.results:
        if decision.allowed or not log.isEnabledFor(logging.INFO):
            continue
        fields = {
            "policy": policy.name,
            "shadow": policy.shadow,
            "subject": disguised(part.key),
            "cost": part.cost,
            "retry_after": decision.retry_after,
            "degraded": decision.degraded,
        }
        log.info(
            "a limit denied in shadow mode" if policy.shadow else "a limit denied", extra=fields
        )


def changed(what: str, policy: str, subject: object, cost: int | None = None) -> None:
    """Log a change by a caller or an operator: one line for each, never throttled."""
    fields = {"policy": policy, "subject": disguised(subject), "peer": request.remote_addr}
    audit.info(what, extra=fields if cost is None else {**fields, "cost": cost})


class AsJson(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _OF_EVERY_RECORD:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
