"""What goes wrong with a service that answers."""

from __future__ import annotations

from greenmq.exceptions import OperationalError

__all__ = ('ServiceError', 'Throttled')


class ServiceError(OperationalError):
    """The service refused a call, or failed in it.

    Attributes:
        code (str): the service's name for it, e.g. "InvalidParameterValue".
        status (int): of the HTTP answer; 0 if it is not known.
    """

    def __init__(self, text: str, code: str = '', status: int = 0) -> None:
        super().__init__(text)
        self.code = code
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.code, self.status)


class Throttled(ServiceError):
    """The service had more calls than it allows, for as long as the deadline of this one."""
