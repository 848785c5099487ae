"""One connection to PostgreSQL by psycopg, whose waits are the runtime's.

psycopg asks for each wait by a generator that yields what its socket must be ready for, so nothing of it
blocks: neither a statement nor, with the generator it connects by, the connect. Names are looked up before,
since libpq would do that in the calling thread.

Statements with values go by libpq's own functions rather than by psycopg's cursors, which spend as much time
on each as all the rest of a publish. psycopg still says how values are written and read.

A connection that an exception left, the server's or a kill, is in an unknown state: it is closed and never
used again.
"""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, InvalidArgument

try:
    import psycopg
except ImportError as error:
    raise ImportError(
        'PostgreSQL needs psycopg: pip install greenmq[postgresql]', name='psycopg'
    ) from error

from psycopg import conninfo as _conninfo
from psycopg import generators as _generators
from psycopg import waiting as _waiting
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from greenmq.transport.postgresql.arrays import ADAPTERS

__all__ = ('Line', 'check_dsn', 'connect', 'driver_version', 'dsn_of', 'psycopg')

_READ, _WRITE = _waiting.WAIT_R, _waiting.WAIT_W
_NONE, _READY_READ, _READY_WRITE = _waiting.READY_NONE, _waiting.READY_R, _waiting.READY_W

_AUTO = PyFormat.AUTO
_OK, _ROWS = ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK

#: Runs after which a statement is prepared at the server.
_PREPARE_AFTER = 5
#: Seconds for which the server may keep to a plan. It may have made it while a table was empty, and by it
#: would read all of the million rows that came since, until it counts them, a minute or so later.
_PLAN_AGE = 1.0
#: Statements that a connection remembers. Those of the drivers are few, but for the types of their values.
_REMEMBERED = 100

#: A peer that is gone without a word is noticed by the system, too.
_KEEPALIVE = {
    'keepalives': '1', 'keepalives_idle': '30', 'keepalives_interval': '10', 'keepalives_count': '3',
}  # fmt: skip


def _ready(fd: int, wanted: int, deadline: runtime.Deadline | None) -> Any:
    readable, writable = runtime.wait_ready(fd, bool(wanted & _READ), bool(wanted & _WRITE), deadline)
    return (_READY_READ if readable else _NONE) | (_READY_WRITE if writable else _NONE)


class Line(psycopg.Connection[Any]):
    """One connection, for one task at a time.

    Attributes:
        deadline (Deadline | None): of the statement under way.
        dismissed (bool): did the server say goodbye?
        prepares (bool): may statements be prepared at the server?
    """

    deadline: runtime.Deadline | None = None
    dismissed = False
    prepares = True

    def __init__(self, pgconn: Any) -> None:
        super().__init__(pgconn)
        # Runs of a statement with values of these types, and its name at the server once it is prepared.
        self._known: OrderedDict[tuple[str, Any], int | bytes] = OrderedDict()
        self._named = 0
        self._planned = 0.0  # `runtime.monotonic()` when the oldest plan may have been made

    def wait(self, gen: Generator[Any, Any, Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Run a generator of psycopg. Switches: yes. Killed, or not in time: the connection is closed."""
        deadline = self.deadline if timeout is None else runtime.Deadline.after(timeout)
        fd = self.pgconn.socket
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(_ready(fd, wanted, deadline))
        except StopIteration as end:
            return end.value
        except BaseException:
            self.discard()
            raise

    def run(self, statement: str, *values: Any, deadline: runtime.Deadline | None = None) -> list[Any]:
        """Run one statement and return its rows; none for one that has no result.

        Arguments:
            statement (str): with $1, $2 for the values; several, separated by ``;``, without values.
        Raises:
            psycopg.Error: and the connection is closed. TimeoutError: not in time.
        """
        self.deadline = deadline
        try:
            if values:
                return self._ask(statement, values)
            cursor = psycopg.RawCursor(self)
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description is not None else []
        except BaseException:
            self.discard()
            raise
        finally:
            self.deadline = None

    def _ask(self, statement: str, values: Sequence[Any]) -> list[Any]:
        adapter = Transformer(ADAPTERS)
        given = adapter.dump_sequence(values, [_AUTO] * len(values))
        name = self._name_of(statement, adapter.types) if self.prepares else None
        if name is None:
            self.pgconn.send_query_params(statement.encode(), given, adapter.types, adapter.formats)
        else:
            self.pgconn.send_query_prepared(name, given, adapter.formats)
        result = self._result()
        adapter.set_pgresult(result)
        return adapter.load_rows(0, result.ntuples, tuple)

    def _name_of(self, statement: str, types: Any) -> bytes | None:
        """Return its name at the server, None while it is run too rarely. Switches: perhaps."""
        key = statement, types
        runs = self._known.get(key, 0)
        if isinstance(runs, bytes):
            self._known.move_to_end(key)
            self._renew_plans()
            return runs
        if runs < _PREPARE_AFTER:
            self._known[key] = runs + 1
            if len(self._known) > _REMEMBERED:
                _, name = self._known.popitem(last=False)
                if isinstance(name, bytes):
                    self.pgconn.send_query(b'DEALLOCATE ' + name)
                    self._result()
            return None
        self._named += 1
        name = b'greenmq_%d' % self._named
        self.pgconn.send_prepare(name, statement.encode(), types)
        self._result()
        self._known[key] = name
        return name

    def _renew_plans(self) -> None:
        # Those of all statements; they stay prepared. Switches: perhaps.
        now = runtime.monotonic()
        if now - self._planned > _PLAN_AGE:
            self.pgconn.send_query(b'DISCARD PLANS')
            self._result()
            self._planned = now

    def _result(self) -> Any:
        result = self.wait(_generators.execute(self.pgconn))[-1]
        if result.status not in (_OK, _ROWS):
            raise error_from_result(result)
        return result

    @property
    def sound(self) -> bool:
        """Can it be used? What the server said while it lay idle is read for that."""
        if self.closed:
            return False
        try:
            for _ in range(2):  # the server's last words, and behind them the end
                self.pgconn.consume_input()
                self.pgconn.is_busy()
        except psycopg.Error:
            self.discard()
            return False
        if self.dismissed:
            self.discard()
        return not self.closed

    def discard(self) -> None:
        """Close it without a word that could wait."""
        self._closed = True
        self.pgconn.finish()


def check_dsn(dsn: str) -> dict[str, Any]:
    """Return what a URL, or a connection string of libpq, says.

    Raises:
        InvalidArgument: it can't be read. The text shows nothing of it.
    """
    try:
        return dict(_conninfo.conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:
        raise InvalidArgument('the URL', '(hidden)', 'is none that libpq can read') from None


def dsn_of(**parts: Any) -> str:
    """Return the connection string of libpq that says these parameters: host, user, dbname and so on."""
    return str(_conninfo.make_conninfo('', **parts))


def connect(dsn: str, deadline: runtime.Deadline, prepared: bool = True, **more: Any) -> Line:
    """Connect, trying the hosts and their addresses in turn; each statement is a transaction of its own.

    Arguments:
        prepared (bool): may statements be prepared at the server? Not behind a pooler that knows none.
        more (Any): parameters of libpq, used where the URL has none.
    Raises:
        TimeoutError: not in time. psycopg.OperationalError, DialError: what the last address met.
    Switches: yes. Killed: no connection stays.
    """
    given = {'gssencmode': 'disable', **_KEEPALIVE, **more, **check_dsn(dsn), 'client_encoding': 'UTF8'}
    failure: Exception = ConnectionLost('no host')
    for attempt in _conninfo.conninfo_attempts(given):
        try:
            addresses = _addresses(attempt, deadline)
        except OSError as error:
            failure = error
            continue
        for address in addresses:
            try:
                there = {**attempt} if address is None else {**attempt, 'hostaddr': address}
                return _connect(there, deadline, prepared)
            except psycopg.Error as error:
                failure = error
    try:
        raise failure
    finally:
        del failure  # its traceback refers to this frame


def _addresses(params: dict[str, Any], deadline: runtime.Deadline) -> Sequence[str | None]:
    host = params.get('host') or os.environ.get('PGHOST')
    if not host or host.startswith(('/', '@')) or params.get('hostaddr') or os.environ.get('PGHOSTADDR'):
        return [None]
    return runtime.addresses_of(str(host), int(params.get('port') or 5432), deadline)


def _connect(params: dict[str, Any], deadline: runtime.Deadline, prepared: bool) -> Line:
    steps = _generators.connect(_conninfo.make_conninfo('', **params))
    try:
        fd, wanted = next(steps)
        while True:
            fd, wanted = steps.send(_ready(fd, wanted, deadline))
    except StopIteration as end:
        line = Line(end.value)
    finally:
        steps.close()
    line.add_notice_handler(partial(_noticed, weakref.ref(line)))  # which the line keeps
    line.prepare_threshold = None  # of psycopg's cursors
    line.prepares = prepared
    line.deadline = deadline
    try:
        line.autocommit = True
    except BaseException:
        line.discard()
        raise
    line.deadline = None
    return line


def _noticed(ref: Callable[[], Line | None], what: Any) -> None:
    # The server says something while it is asked nothing.
    line = ref()
    if line is not None and what.severity_nonlocalized in ('FATAL', 'PANIC'):
        line.dismissed = True


def driver_version() -> str:
    """The version of psycopg."""
    return str(psycopg.__version__)
