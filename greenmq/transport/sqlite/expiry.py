"""Queues that expire when nobody uses them (``x-expires``), by a clock that may jump.

How long nobody has used a queue stands in the file, by the clock of the machine. Should that jump ahead, all
queues look as if nobody had used them: who waits for messages of one says so at each of its sweeps, before
anybody believes it, since that takes a while by the clock that does not jump.
"""

from __future__ import annotations

from collections.abc import Callable

from greenmq.log import get_logger
from greenmq.transport.patience import Patience
from greenmq.transport.sqlite.store import Store

__all__ = ('Expiry',)

logger = get_logger('greenmq.transport.sqlite')

#: Seconds for which a queue must look unused before it is deleted: more than two sweeps, unless they were set
#: to be rarer.
_PATIENCE = 5.0
#: The part of its time after which a queue on which somebody waits is noted as used.
_NOTED = 1 / 3


class Expiry:
    """The queues of one store that expire, as one process sees them.

    Arguments:
        file (str): for texts.
        patience (float): seconds, see above; 0 if nobody else uses the store.
    """

    def __init__(self, file: str, patience: float = _PATIENCE) -> None:
        self._file = file
        self._patience = patience
        self._over = Patience()
        self._used: list[str] = []

    def look(self, store: Store, waited: Callable[[str], bool]) -> bool:
        """Tell whether `work` has anything to do. Needs no transaction.

        Arguments:
            waited (Callable[[str], bool]): does somebody wait here for messages of this queue?
        """
        unused = store.unused()
        self._used = [name for name, part in unused.items() if not 0 <= part < _NOTED and waited(name)]
        self._over.look(name for name, part in unused.items() if part >= 1 and name not in self._used)
        return bool(self._used or self._over.ended(self._patience))

    def work(self, store: Store) -> None:
        """Note which queues are used, and delete those that were not for as long as they said."""
        for name in self._used:
            store.use(name)
        unused = store.unused()
        for name in self._over.ended(self._patience):
            if unused.get(name, 0.0) >= 1:
                store.delete(name)
                logger.info('%s: queue %r was not used for so long that it has expired', self._file, name)
