"""Loggers, log levels, and texts that can always be formatted.

Nothing here switches.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from greenmq.utils.encoding import safe_repr, safe_str
from greenmq.utils.functional import maybe_evaluate
from greenmq.utils.objects import cached_property

__all__ = ('LOG_LEVELS', 'LogMixin', 'get_loglevel', 'setup_logging')

#: Level names to numbers, and numbers to names.
LOG_LEVELS: dict[str | int, Any] = {
    'CRITICAL': logging.CRITICAL,
    'FATAL': logging.FATAL,
    'ERROR': logging.ERROR,
    'WARN': logging.WARNING,
    'WARNING': logging.WARNING,
    'INFO': logging.INFO,
    'DEBUG': logging.DEBUG,
    'NOTSET': logging.NOTSET,
    logging.CRITICAL: 'CRITICAL',
    logging.ERROR: 'ERROR',
    logging.WARNING: 'WARNING',
    logging.INFO: 'INFO',
    logging.DEBUG: 'DEBUG',
    logging.NOTSET: 'NOTSET',
}

#: Set to leave tracebacks out of what `LogMixin` logs.
DISABLE_TRACEBACKS = os.environ.get('DISABLE_TRACEBACKS')

_CONVERSION = re.compile(r'%(?:\([^)]*\))?[#0\- +]*[\d*]*(?:\.[\d*]+)?[hlL]?([a-zA-Z%])')

# A conversion letter decides how its argument is made safe; numbers pass as they are.
_FILTERS: dict[str, Callable[[Any], Any]] = {'s': safe_str, 'r': safe_repr}


def get_logger(logger: str | logging.Logger) -> logging.Logger:
    """Return the logger of this name (or the logger given), silent until the program adds a handler.

    Source: kombu.log.get_logger.
    """
    if isinstance(logger, str):
        logger = logging.getLogger(logger)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


#: Seconds after which an outage that goes on is told again.
OUTAGE_TOLD_EVERY = 60.0
#: Seconds after its end within which a loss is the same outage, noticed late by a connection in no use.
OUTAGE_NOTICED_LATE = 15.0

_notices: list[str] = []
#: Host → when its outage began, and when it was told last.
_outages: dict[str, tuple[float, float]] = {}
#: Host → when its last outage ended.
_ended: dict[str, float] = {}


def outage_level(what: str, host: str) -> int:
    """The level at which to log that a host is away: a process tells it once, however many notice it.

    Arguments:
        what (str): who notices it: 'lost', 'recovery', 'connect'. All are one outage.
        host (str): ``host:port``; what stands behind a slash does not count.
    Returns:
        int: WARNING for the first, and again each minute; DEBUG for all that is said meanwhile. INFO for one
            that follows within seconds, unless that lasts as long.
    """
    now, key = time.monotonic(), _place(host)
    if key not in _outages and now - _ended.get(key, float('-inf')) < OUTAGE_NOTICED_LATE:
        _outages[key] = now, now - OUTAGE_TOLD_EVERY + OUTAGE_NOTICED_LATE
        return logging.INFO
    began, told = _outages.get(key, (now, float('-inf')))
    if now - told < OUTAGE_TOLD_EVERY:
        return logging.DEBUG
    _outages[key] = began, now
    return logging.WARNING


def outage_over(host: str) -> float | None:
    """Note that a host is back: its next outage is told at once, unless it follows within seconds.

    Returns:
        float | None: seconds since the outage was first told, for the one who is to tell of its end; None for
        all others.
    """
    key, now = _place(host), time.monotonic()
    found = _outages.pop(key, None)
    if found is None:
        return None
    if len(_ended) > 1000:
        _ended.clear()
    _ended[key] = now
    began, told = found
    return None if told < began else now - began  # its beginning was not told either


def _place(host: str) -> str:
    return host if host.startswith('/') else host.partition('/')[0]


def notice(text: str) -> None:
    """Keep a line until logging is set up; `tell_notices` writes it."""
    _notices.append(text)


def tell_notices(logger: logging.Logger) -> None:
    """Log at level INFO, once, what has to be known of this process: called when a connection opens."""
    while _notices:
        logger.info(_notices.pop())


def get_loglevel(level: Any) -> Any:
    """Return the number of a level's name in capitals; anything but a str comes back as it is.

    Raises:
        KeyError: there is no such level.
    Source: kombu.log.get_loglevel.
    """
    return LOG_LEVELS[level] if isinstance(level, str) else level


def naive_format_parts(fmt: str) -> Iterator[str | None]:
    """Yield the conversion letter of each `%` in a format; None for a `%%`, which takes no argument.

    Source: kombu.log.naive_format_parts.
    """
    for found in _CONVERSION.finditer(fmt):
        yield None if found[1] == '%' else found[1]


def safeify_format(
    fmt: str, args: Sequence[Any], filters: Mapping[str, Callable[[Any], Any]] | None = None
) -> Iterator[Any]:
    """Yield the arguments of a format, those of `%s` and `%r` as texts whose making can't fail.

    Arguments:
        filters (Mapping[str, Callable]): conversion letter → function, in place of these two.
    Source: kombu.log.safeify_format; differs: takes formats such as `%.2f` and `%%` for what they are.
    """
    chosen = _FILTERS if filters is None else filters
    letters = iter([part for part in naive_format_parts(fmt) if part is not None])
    for arg in args:
        make = chosen.get(next(letters, ''))
        yield make(arg) if make else arg


def _shown_as_text(found: re.Match[str]) -> str:
    return f'{found[0][:-1]}s' if found[1] == 'r' else found[0]


class LogMixin:
    """Methods of a logger on an object; `annotate` can put something before each message.

    Source: kombu.log.LogMixin.
    """

    def debug(self, *args: Any, **kwargs: Any) -> None:
        """Log at level DEBUG."""
        self.log(logging.DEBUG, *args, **kwargs)

    def info(self, *args: Any, **kwargs: Any) -> None:
        """Log at level INFO."""
        self.log(logging.INFO, *args, **kwargs)

    def warn(self, *args: Any, **kwargs: Any) -> None:
        """Log at level WARNING."""
        self.log(logging.WARNING, *args, **kwargs)

    def error(self, *args: Any, **kwargs: Any) -> None:
        """Log at level ERROR, with the traceback of the exception being handled."""
        self._log_error(logging.ERROR, *args, **kwargs)

    def critical(self, *args: Any, **kwargs: Any) -> None:
        """Log at level CRITICAL, with the traceback of the exception being handled."""
        self._log_error(logging.CRITICAL, *args, **kwargs)

    def _log_error(self, severity: int, *args: Any, **kwargs: Any) -> None:
        if DISABLE_TRACEBACKS:
            kwargs['exc_info'] = None
        else:
            # Only where there is one: logging would write "NoneType: None".
            kwargs.setdefault('exc_info', sys.exc_info()[0] is not None)
        self.log(severity, *args, **kwargs)

    def annotate(self, text: str) -> str:
        """Return the message as it is to be logged."""
        return f'{self.logger_name} - {text}'

    def log(self, severity: int, *args: Any, **kwargs: Any) -> None:
        """Log a format and its arguments; lazy arguments are computed if the level is on."""
        if not self.logger.isEnabledFor(severity):
            return
        text, *values = args
        if not values:
            # With no arguments logging formats nothing, and a lone % in the text is right as it stands.
            self.logger.log(severity, self.annotate(text), **kwargs)
        elif len(values) == 1 and isinstance(values[0], Mapping):
            self.logger.log(severity, self.annotate(text), values[0], **kwargs)
        else:
            expanded = [maybe_evaluate(value) for value in values]
            # The arguments of %r are their representations by now: once more would quote them twice.
            shown = _CONVERSION.sub(_shown_as_text, text)
            self.logger.log(severity, self.annotate(shown), *safeify_format(text, expanded), **kwargs)

    def get_logger(self) -> logging.Logger:
        """Return the logger to use; the attribute `logger` keeps it."""
        return get_logger(self.logger_name)

    def is_enabled_for(self, level: int | str) -> bool:
        """Tell whether messages of this level are logged."""
        return bool(self.logger.isEnabledFor(self.get_loglevel(level)))

    def get_loglevel(self, level: Any) -> Any:
        """Return the number of a level, as the function `get_loglevel` does."""
        return get_loglevel(level)

    @cached_property
    def logger(self) -> logging.Logger:
        """The logger."""
        return self.get_logger()

    @property
    def logger_name(self) -> str:
        """Name of the logger: the class's."""
        return type(self).__name__


class Log(LogMixin):
    """A logger with the methods of `LogMixin`.

    Arguments:
        name (str): of the logger.
        logger (Logger): a logger to use instead.
    Source: kombu.log.Log.
    """

    def __init__(self, name: str, logger: logging.Logger | None = None) -> None:
        self._logger_name = name
        self._logger = logger

    def get_logger(self) -> logging.Logger:
        """Return the logger that was given, else the one of the name."""
        return self._logger if self._logger is not None else super().get_logger()

    @property
    def logger_name(self) -> str:
        """Name of the logger, as given."""
        return self._logger_name


def setup_logging(loglevel: int | str | None = None, logfile: str | IO[str] | None = None) -> logging.Logger:
    """Let the root logger write, unless it does already.

    Arguments:
        loglevel (int or str): default ERROR; not looked at if it writes already.
        logfile (str or file): a path, re-opened when rotated, or a file; default `sys.__stderr__`.
    Returns:
        Logger: the root logger.
    Source: kombu.log.setup_logging.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.setLevel(get_loglevel(loglevel or 'ERROR'))
        root.addHandler(_handler(sys.__stderr__ if logfile is None else logfile))
    return root


def _handler(logfile: Any) -> logging.Handler:
    if hasattr(logfile, 'write'):
        return logging.StreamHandler(logfile)
    # Imported here: it brings sockets and pickle with it, and is rarely wanted.
    from logging.handlers import WatchedFileHandler

    return WatchedFileHandler(logfile)
