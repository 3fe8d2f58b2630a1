"""What the service says of its decisions, by the standard logging module.

A line has fields beside its text (``extra``); as ``set_up`` writes it, all of it is one line of JSON.
Neither holds a secret or a whole subject.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from hashlib import blake2b

from flask import request

from limiter.log_throttle import ThrottleFilter
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.verdict import Verdict

log = logging.getLogger("limiter.service")
#: What was changed by hand, or given back: a line for each, however many.
audit = logging.getLogger("limiter.service.audit")

#: Loggers with lines about single requests, of which there may be a flood. The last two are Flask's, by
#: the modules of its applications.
_OF_CALLS = ("limiter", "limiter.web", "limiter.service", "service.app", "service.operators")

_OF_EVERY_RECORD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(level: int) -> None:
    """In a process of the service alone: what is said of every call is said seldom, and all as JSON.

    To standard error, unless somebody has told the loggers where to.
    """
    calm()
    logger = logging.getLogger("limiter")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(AsJson())
        logger.addHandler(handler)
    logger.setLevel(level)


def calm() -> Callable[[], None]:
    """Throttle the lines about single requests; what comes back ends that."""
    throttle = ThrottleFilter()
    loggers = [logging.getLogger(name) for name in _OF_CALLS]
    for logger in loggers:
        logger.addFilter(throttle)

    def end() -> None:
        for logger in loggers:
            logger.removeFilter(throttle)

    return end


def denied(verdict: Verdict) -> None:
    """Say, seldom, that a limit denied; who was denied is told apart, and not named."""
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
            "a limit denied in the shadows" if policy.shadow else "a limit denied", extra=fields
        )


def changed(what: str, policy: str, subject: object, cost: int | None = None) -> None:
    """Write down a change that no limit made: a line for each, whatever came before it."""
    fields = {"policy": policy, "subject": disguised(subject), "peer": request.remote_addr}
    audit.info(what, extra=fields if cost is None else {**fields, "cost": cost})


def disguised(subject: object) -> str:
    """Something by which a subject can be told from others, and not be read."""
    return blake2b(repr(subject).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()


class AsJson(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
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
