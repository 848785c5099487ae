"""Seeing what the library does: logging set up in one call, objects whose method calls are logged.

Nothing here switches, unless a function that the program passed in does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import wraps
from typing import Any

from greenmq.log import get_logger
from greenmq.utils.functional import reprcall

__all__ = ('Logwrapped', 'setup_logging')

#: Loggers that `setup_logging` makes talk.
DEFAULT_LOGGERS = ('greenmq',)


def setup_logging(loglevel: int | None = logging.DEBUG, loggers: Iterable[str] | None = None) -> None:
    """Log to stderr what the named loggers say.

    Arguments:
        loglevel (int): from which level on; None leaves levels as they are.
        loggers (Iterable[str]): default: greenmq's.
    Source: kombu.utils.debug.setup_logging.
    """
    for name in loggers or DEFAULT_LOGGERS:
        logger = get_logger(name)
        logger.addHandler(logging.StreamHandler())
        if loglevel is not None:
            logger.setLevel(loglevel)


class Logwrapped:
    """An object that logs each call of one of its methods, at debug level, before making it.

    Arguments:
        instance (object): whose methods are called.
        logger (Logger or str): where to log.
        ident (str): begins each line; `{}`-formatted with the object.

    Source: kombu.utils.debug.Logwrapped; differs: without a logger, this module's is used.
    """

    #: Attributes that are handed out bare.
    __ignore = ('__enter__', '__exit__')

    def __init__(
        self, instance: Any, logger: logging.Logger | str | None = None, ident: str | None = None
    ) -> None:
        self.instance = instance
        self.logger = get_logger(logger if logger is not None else __name__)
        self.ident = ident

    def __getattr__(self, key: str) -> Any:
        value = getattr(self.instance, key)
        if not callable(value) or key in self.__ignore:
            return value

        @wraps(value)
        def logged(*args: Any, **kwargs: Any) -> Any:
            prefix = self.ident.format(self.instance) if self.ident else ''
            self.logger.debug('%s%s', prefix, reprcall(getattr(value, '__name__', key), args, kwargs))
            return value(*args, **kwargs)

        return logged

    def __repr__(self) -> str:
        return repr(self.instance)

    def __dir__(self) -> list[str]:
        return dir(self.instance)

    def __enter__(self) -> Any:
        return self.instance.__enter__()

    def __exit__(self, *exc_info: object) -> Any:
        return self.instance.__exit__(*exc_info)
