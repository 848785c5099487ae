"""Units of time.

Nothing here switches.
"""

from __future__ import annotations

__all__ = ('maybe_s_to_ms',)


def maybe_s_to_ms(v: float | str | None) -> int | None:
    """Convert seconds to whole milliseconds (cut, not rounded); None stays None.

    Source: kombu.utils.time.maybe_s_to_ms.
    """
    return None if v is None else int(float(v) * 1000.0)
