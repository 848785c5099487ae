"""What a daemon writes to its log: lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone

__all__ = ('FORMATS', 'JSONFormatter', 'set_up')

#: Names for `set_up`.
FORMATS = ('plain', 'json')

PLAIN = '%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s'


class JSONFormatter(logging.Formatter):
    """One object a line: time (ISO 8601, UTC), level, logger, message, pid, and error with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        entry: dict[str, object] = {
            'time': datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec='milliseconds'),
            'level': record.levelname.lower(),
            'logger': record.name,
            'message': record.getMessage(),
            'pid': os.getpid(),
        }
        if record.exc_info:
            entry['error'] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def set_up(level: str = 'info', form: str = 'plain') -> None:
    """Send all log records of the process to standard error.

    Arguments:
        level (str): as `logging` has them, in any case.
        form (str): one of `FORMATS`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if form == 'json' else logging.Formatter(PLAIN))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
