"""gunicorn's log in the format of ours."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

from app.core import config, log_config


class StructuredLogger(Logger):
    """Writes gunicorn's messages to standard error as LOG_FORMAT says."""

    def setup(self, cfg: Any) -> None:
        """Replace the handlers of the error log."""
        super().setup(cfg)
        self.error_log.handlers = [log_config.make_handler(config.log_format())]
