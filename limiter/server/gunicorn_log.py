"""gunicorn's log in JSON, as that of the applications."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

from limiter.server.logs import write_json


class JsonLogger(Logger):  # type: ignore[misc]
    """For gunicorn's setting ``logger_class``."""

    def setup(self, cfg: Any) -> None:
        """Set up the handlers, also on SIGHUP."""
        super().setup(cfg)
        write_json(self.error_log)
