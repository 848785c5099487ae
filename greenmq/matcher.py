"""Whether a name fits a pattern, by shell pattern or regular expression; further matchers can be registered.

Nothing here switches, unless a function that the program passed in does.

Source: kombu.matcher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from re import match as rematch
from typing import Any

from greenmq.utils.compat import load_entrypoints
from greenmq.utils.encoding import bytes_to_str

MatcherFunction = Callable[[str, str], bool]


class MatcherNotInstalled(Exception):
    """There is no matcher of that name."""


class MatcherRegistry:
    """Matchers by name. Those of installed packages (entry points) are loaded at the first use.

    Source: kombu.matcher.MatcherRegistry.
    """

    MatcherNotInstalled = MatcherNotInstalled
    #: Matchers called with (pattern, data) instead of (data, pattern).
    matcher_pattern_first = ['pcre']  # recorded as a list that programs append to

    def __init__(self) -> None:
        self._matchers: dict[str, Callable[..., Any]] = {}
        self._default_matcher: Callable[..., Any] | None = None
        self._default_name: str | None = None
        self._plugins: tuple[str, ...] = ()

    def register(self, name: str, matcher: Callable[..., Any]) -> None:
        """Make a matcher known.

        Arguments:
            matcher (Callable): called with the data, the pattern and matcher_kwargs, true if it fits.
        """
        self._matchers[name] = matcher

    def unregister(self, name: str) -> None:
        """Forget a matcher.

        Raises:
            MatcherNotInstalled: there is none of that name.
        """
        self._load_plugins()
        if self._matchers.pop(name, None) is None:
            raise self._missing(name)

    def match(
        self,
        data: str | bytes,
        pattern: str | bytes,
        matcher: str | None = None,
        matcher_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Tell whether the data fits the pattern.

        Arguments:
            matcher (str): which matcher; default 'glob'.
            matcher_kwargs (Mapping[str, object]): passed on to it.
        Returns:
            whatever the matcher returned: true if it fits.
        Raises:
            MatcherNotInstalled: there is none of that name.
        """
        if self._plugins:
            self._load_plugins()
        function = self._matchers.get(matcher) if matcher else self._default_matcher
        if function is None:
            raise self._missing(matcher)
        first, second = bytes_to_str(data), bytes_to_str(pattern)
        if (matcher or self._default_name) in self.matcher_pattern_first:
            first, second = second, first
        return function(first, second, **(matcher_kwargs or {}))

    def _missing(self, name: str | None) -> Exception:
        return self.MatcherNotInstalled(
            f'no matcher {name!r} installed: known are {", ".join(sorted(self._matchers))}'
        )

    def _set_default_matcher(self, name: str) -> None:
        if name not in self._matchers:
            raise self._missing(name)
        self._default_name, self._default_matcher = name, self._matchers[name]

    def _load_plugins(self) -> None:
        # Looking through what is installed takes milliseconds, hence not at import.
        namespaces, self._plugins = self._plugins, ()
        load_entrypoints(namespaces, lambda name, arguments: self.register(name, *arguments))


#: The matchers of this process.
registry = MatcherRegistry()
match = registry.match
register = registry.register
unregister = registry.unregister


def register_glob() -> None:
    """Register 'glob': a shell pattern over the whole name."""
    registry.register('glob', fnmatch)


def register_pcre() -> None:
    """Register 'pcre': a regular expression that begins to fit at the start of the name."""
    registry.register('pcre', rematch)


register_glob()
register_pcre()
registry._set_default_matcher('glob')
registry._plugins = ('kombu.matchers', 'greenmq.matchers')
