"""How often the process was forked: what tells a thing of this process from its copy. Imports nothing."""

from __future__ import annotations

__all__ = ('fork_epoch', 'forks')


class _Forks:
    # An attribute and not a function: hot paths compare it.
    __slots__ = ('count',)

    def __init__(self) -> None:
        self.count = 0


forks = _Forks()


def fork_epoch() -> int:
    """Count of forks between the first process and this one. What was made in another epoch is not ours."""
    return forks.count
