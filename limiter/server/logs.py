"""Log lines about decisions, by the standard logging module.

Each record has a text and fields (``extra``); ``set_up`` writes both as one line of JSON. No line has a
secret, or a readable subject.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone

from limiter.log_throttle import ThrottleFilter
from limiter.web.forward_auth import Refusal
from limiter.web.identity import Unidentified
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.subjects import Key, disguised
from limiter.web.verdict import Verdict

log = logging.getLogger("limiter.service")
#: Changes by operators, and refunds: one line for each, never throttled.
audit = logging.getLogger("limiter.service.audit")

#: Loggers with lines about single requests, which clients could cause in any number.
_OF_CALLS = ("limiter", "limiter.web", "limiter.service")
#: Loggers of servers that may run the service.
_OF_SERVERS = ("gunicorn.error", "gunicorn.access", "uvicorn", "uvicorn.error", "uvicorn.access")

_OF_EVERY_RECORD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Fields of the servers' records that repeat others, or are not for JSON.
_LEFT_OUT = _OF_EVERY_RECORD | {"color_message"}

#: Throttles the lines about single requests; None: all of them are logged.
_throttle: ThrottleFilter | None = None


def set_up(level: int) -> None:
    """Set up logging in the service's own process: JSON lines, with repeated ones throttled.

    They go to standard error, unless the loggers have handlers already.
    """
    calm()
    logger = logging.getLogger("limiter")
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())
    logger.setLevel(level)
    for name in ("limiter", *_OF_SERVERS):
        write_json(logging.getLogger(name))


def write_json(logger: logging.Logger) -> None:
    """Let the handlers of a logger write lines of JSON."""
    for handler in logger.handlers:
        handler.setFormatter(AsJson())


def calm() -> Callable[[], None]:
    """Throttle the lines about single requests; the returned function ends that."""
    global _throttle
    _throttle = throttle = ThrottleFilter()
    loggers = [logging.getLogger(name) for name in _OF_CALLS]
    for logger in loggers:
        logger.addFilter(throttle)

    def end() -> None:
        global _throttle
        _throttle = None
        for logger in loggers:
            logger.removeFilter(throttle)

    return end


def denied(verdict: Verdict) -> None:
    """Log why a request was refused, with a hash of the subject; the lines are throttled."""
    if isinstance(verdict.error, TooManyNewSubjects):
        log.info("a client began too many subjects", extra={"policy": verdict.error.policy})
    elif isinstance(verdict.error, Unidentified):
        log.info("a request is unidentified", extra={"reason": str(verdict.error)})
    for policy, decision, part in verdict.results:
        if decision.allowed:
            continue
        if not log.isEnabledFor(logging.INFO):
            return
        text = "a limit denied in shadow mode" if policy.shadow else "a limit denied"
        if _throttle is not None and _throttle.leaves_out(log, text, policy.name):
            continue
        fields = {
            "policy": policy.name,
            "shadow": policy.shadow,
            "subject": disguised(part.key),
            "cost": part.cost,
            "retry_after": decision.retry_after,
            "degraded": decision.degraded,
        }
        log.info(text, extra=fields)


def not_decided(refusal: Refusal, peer: str | None) -> None:
    """Log why a proxy got no decision; the lines are throttled.

    It is a warning unless a client can cause it.
    """
    level = logging.INFO if refusal.status == 400 else logging.WARNING
    fields = {"status": refusal.status, "peer": peer}
    log.log(level, "a proxy got no decision: " + refusal.detail, extra=fields)


def changed(
    what: str, policy: str, subject: Key, peer: str | None, cost: int | None = None
) -> None:
    """Log a change by a caller or an operator: one line for each, never throttled."""
    fields = {"policy": policy, "subject": disguised(subject), "peer": peer}
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
            if name not in _LEFT_OUT:
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
