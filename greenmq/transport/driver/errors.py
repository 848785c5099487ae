"""The one seam where the errors of a driver's client become greenmq's."""

from __future__ import annotations

from typing import Any

from greenmq import runtime
from greenmq.exceptions import (
    AMQPError,
    ConnectionLost,
    KombuError,
    MessageNacked,
    OperationalError,
    TimeoutError,
)
from greenmq.transport.driver.contract import Driver
from greenmq.transport.errors import Fault, is_loss, meaning

__all__ = ('bounded', 'is_loss', 'translate')

_OURS = (AMQPError, KombuError, MessageNacked)
#: Seconds for a call that keeps its deadline to say itself what it waited for: both timers are due at once.
_LAST_WORD = 0.1


def translate(driver: Driver, error: Exception) -> tuple[Exception, str]:
    """Return what an error of a driver's call means, and of a put that failed so, what was sent.

    What `Driver.errors` says comes first. Our own classes stay as they are, the system's errors are a loss,
    and anything else is an OperationalError: nothing of a client's own passes through.

    Returns:
        tuple[Exception, str]: the error to raise, its cause set; 'no' or 'unknown'.
    """
    fault = meaning(driver.errors, error)
    if fault is None:
        if isinstance(error, (*_OURS, TimeoutError)):
            return error, getattr(error, 'sent', 'unknown')
        fault = Fault(ConnectionLost if isinstance(error, (OSError, EOFError)) else OperationalError)
    return fault.of(error), fault.sent


class _Call:
    """One call in a task of its own, and the waiter for its outcome."""

    __slots__ = ('args', 'decline', 'fun', 'waiter')

    def __init__(self, fun: Any, args: tuple[Any, ...], waiter: runtime.Waiter, decline: Any) -> None:
        self.fun = fun
        self.args = args
        self.decline = decline
        self.waiter = waiter

    def run(self) -> None:
        try:
            result = self.fun(*self.args)
        except Exception as error:  # raised to who waits
            self.waiter.fail(error)
        else:
            if not self.waiter.wake(result) and self.decline is not None:
                self.decline(result)

    def ended(self, task: runtime.Task, error: BaseException | None) -> None:
        self.waiter.fail(error or ConnectionLost(f'{task.name} was ended'))


def bounded(
    name: str, deadline: runtime.Deadline, fun: Any, *args: Any, decline: Any = None, uncut: bool = False
) -> Any:
    """Call something that might not keep its deadline, in a task that ends with the deadline.

    Arguments:
        decline (Callable): gets a result that came when nobody waited any more. Must not switch.
        uncut (bool): the call must not be killed: it ends alone, and `decline` gets what it brings.

    Raises:
        TimeoutError: not in time, with the call's own words if it has some; else it was killed. Others: from
            `fun`.
    Switches: yes. Killed: the call is killed too, unless it's `uncut`.
    """
    call = _Call(fun, args, runtime.Waiter(f'{name}: no answer'), decline)
    task = runtime.spawn(call.run, name=f'greenmq {name}', on_exit=call.ended)
    try:
        return call.waiter.wait(runtime.Deadline(deadline.at + _LAST_WORD, deadline.seconds), decline)
    finally:
        if not uncut:
            task.kill()
