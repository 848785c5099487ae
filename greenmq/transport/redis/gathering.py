"""What takes ask the server for at the same time leaves as one script, which costs the server and us much
less than one for each of a thousand consumers on channels of their own.

A request joins those that wait to leave in this turn of the hub. The reply is taken apart where it comes in,
and each caller is woken with its part; what nobody waits for any more goes back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from redis.exceptions import NoScriptError

from greenmq import runtime
from greenmq.exceptions import AMQPError
from greenmq.log import get_logger
from greenmq.transport.driver.contract import UNSEEN, Taken
from greenmq.transport.redis import resp
from greenmq.transport.redis.errors import WrongReply, raised
from greenmq.transport.redis.keys import Home, Keys
from greenmq.transport.redis.replies import expect
from greenmq.transport.redis.scripts import FETCH
from greenmq.transport.redis.server import Server
from greenmq.transport.redis.settling import OURS, Settler

__all__ = ('Found', 'Gathering', 'Pairs', 'Request', 'tell_of_strangers')

logger = get_logger('greenmq.transport.redis')

#: Seconds that a fetch waits for one node of a cluster, before it asks the next.
NODE_PATIENCE = 1.0

#: Bytes and messages after which a fetch takes no more: what it brings is made into messages in one stretch,
#: and nobody else on the hub has a turn meanwhile.
FETCH_BYTES = 1024 * 1024
FETCH_MESSAGES = 1000
#: Lists after which the next request begins another script: the server runs nothing else meanwhile.
LISTS = 1000

#: Queue and step of each list that is asked.
Pairs = list[tuple[str, int]]


class Found:
    """What one request was told.

    Attributes:
        takens (list[Taken]): the messages.
        due (int): ms until the next delayed message is due; -1: there is none.
        more (bool): there may be more messages, since not all lists were read to their end.
        strangers (int): members of the delayed messages that were none; told to one request of a script.
        refused (Exception | None): why not all lists could be read.
    """

    __slots__ = ('due', 'more', 'refused', 'strangers', 'takens')

    def __init__(self, due: int) -> None:
        self.takens: list[Taken] = []
        self.due = due
        self.more = False
        self.strangers = 0
        self.refused: Exception | None = None


class Request:
    """What one take asks for: up to n messages of some lists.

    Arguments:
        waiter (Waiter): or what has such a `wake`.
    """

    __slots__ = ('lists', 'n', 'pairs', 'sent', 'waiter', 'words')

    def __init__(self, n: int, lists: list[str], words: list[Any], pairs: Pairs, waiter: Any) -> None:
        self.n = n
        self.lists = lists
        self.words = words
        self.pairs = pairs
        self.waiter = waiter
        self.sent = False


class Gathering:
    """The requests of one session.

    Arguments:
        server (Server), keys (Keys): where and what.
        settler (Settler): gives back what nobody waits for any more.
        max_bytes (int | None): of the longest message that is read.
        lease_ms (int): of a consumer that takes.
    Attributes:
        number (int): of the next message that is asked for.
        cut (set[str]): keys of homes that a fetch was sent to whose caller was killed.
    """

    def __init__(
        self, server: Server, keys: Keys, settler: Settler, max_bytes: int | None, lease_ms: int
    ) -> None:
        self.number = 1
        self.cut: set[str] = set()
        self._server = server
        self._keys = keys
        self._settler = settler
        self._limits = (lease_ms, FETCH_BYTES, FETCH_MESSAGES, max_bytes or resp.MAX_BYTES)
        self._waiting: dict[Home, list[Request]] = {}  # by home, what leaves in this turn

    def ask(self, home: Home, lists: list[str], words: list[Any], pairs: Pairs, n: int) -> Found:
        """Ask for up to n messages of the lists of one home.

        Arguments:
            words (list): what the script wants to know of each list. pairs (Pairs): its queue and step.
        Raises:
            ConnectionLost, ConnectionClosed: there is no answer. TimeoutError: not of this node. Others: the
                server refuses.
        Switches: yes. Killed: what was taken goes back.
        """
        # Each node of a cluster has its turn, whatever the others do.
        deadline = runtime.Deadline.after(NODE_PATIENCE) if self._keys.cluster else None
        while True:
            request = Request(n, lists, words, pairs, runtime.Waiter('no reply to a fetch'))
            if self._keys.cluster:
                found = self._ask_alone(home, request, deadline)
            else:
                self._server.wait_open(None)
                found = self._ask_with_others(home, request)
            if found.strangers:
                tell_of_strangers(home.delayed, found.strangers)
            if found.takens:
                return found
            if found.refused is not None:
                raised(found.refused, self._server.name)
            if not found.more:
                return found
            # Others have taken as much as one script may take: our turn has not come yet.

    def _ask_with_others(self, home: Home, request: Request) -> Found:
        self.join(home, request)
        try:
            # The reader keeps the hub.
            found: Found = raised(request.waiter.wait(None, self._give_back, hold=False), self._server.name)
        except Exception:
            raise
        except BaseException:  # killed
            self.drop(home, request)
            raise
        return found

    def join(self, home: Home, request: Request) -> None:
        """Have a request leave with this turn. Its waiter is woken with a `Found`, or an error. No switch."""
        group = self._waiting.get(home)
        if group is None:
            group = self._waiting[home] = []
            if len(self._waiting) == 1:
                runtime.run_soon(self._send_all, self._waiting)
        group.append(request)

    def drop(self, home: Home, request: Request) -> None:
        """Nobody waits for it any more: what it brings goes back. Switches: no."""
        group = self._waiting.get(home, [])
        if request.sent:
            self.cut.add(home.unacked)  # the answer may still come
        elif request in group:
            group.remove(request)

    def _ask_alone(self, home: Home, request: Request, deadline: runtime.Deadline | None) -> Found:
        # A node may have moved: `Server.run` follows.
        number, command = self._command(home, [request])
        try:
            reply = self._server.run(
                FETCH, command[0], command[1], deadline,
                orphan=partial(self._orphaned, [request], number), shape=partial(is_fetched, [request]),
            )  # fmt: skip
        except Exception:
            raise
        except BaseException:
            self.cut.add(home.unacked)
            raise
        return self._taken_apart([request], number, reply)[0]

    def leave(self) -> None:
        """The session goes on in another thread: what has not left never will."""
        self._waiting = {}

    def _send_all(self, waiting: dict[Home, list[Request]]) -> None:
        if self._waiting is not waiting:
            return  # of the thread that was left, whose takes are ended
        self._waiting = {}
        for home, requests in waiting.items():
            batch: list[Request] = []
            lists = 0
            for request in requests:
                if batch and lists + len(request.lists) > LISTS:
                    self._send(home, batch)
                    batch, lists = [], 0
                batch.append(request)
                lists += len(request.lists)
            if batch:
                self._send(home, batch)

    def _send(self, home: Home, batch: list[Request]) -> None:
        number, (keys, words) = self._command(home, batch)
        self._post(home, batch, number, ('EVALSHA', FETCH.digest, len(keys), *keys, *words))

    def _post(self, home: Home, batch: list[Request], number: int, command: tuple[Any, ...]) -> None:
        try:
            self._server.post(
                resp.pack(command), home.unacked, partial(self._answered, home, batch, number, command)
            )
        except AMQPError as error:
            _fail(batch, error)
            return
        for request in batch:
            request.sent = True

    def _command(self, home: Home, batch: list[Request]) -> tuple[int, tuple[list[str], list[Any]]]:
        """The number of the first message, keys and arguments of the script."""
        number = self.number
        self.number += min(sum(request.n for request in batch), FETCH_MESSAGES)
        keys = [home.unacked, home.times, home.own, home.lease, home.consumers, home.delayed]
        words: list[Any] = [number, self._keys.consumer, *self._limits]
        for request in batch:
            keys += request.lists
            words += (request.n, len(request.lists))
            words += request.words
        return number, (keys, words)

    def _answered(
        self, home: Home, batch: list[Request], number: int, command: tuple[Any, ...], reply: Any
    ) -> None:
        if isinstance(reply, NoScriptError) and command[0] == 'EVALSHA':
            self._post(home, batch, number, ('EVAL', FETCH.text, *command[2:]))
            return
        if isinstance(reply, Exception):
            _fail(batch, reply)
            return
        try:
            expect(reply, partial(is_fetched, batch), self._server.name)
        except WrongReply as error:
            _fail(batch, error)
            raise  # which ends the link
        for request, found in zip(batch, self._taken_apart(batch, number, reply), strict=True):
            if not request.waiter.wake(found):
                self._give_back(found)

    def _taken_apart(self, batch: list[Request], number: int, reply: list[Any]) -> list[Found]:
        """What each request was told, each message under its tag."""
        due, strangers, unfinished = reply[:3]
        found = [Found(due) for _ in batch]
        found[0].strangers = strangers
        at = 3 + unfinished
        for place in reply[3:at]:
            found[place].more = True
        end = at + 1 + 2 * reply[at]
        for place in range(at + 1, end, 2):
            found[reply[place]].refused = reply[place + 1]
        at = end + 1 + 2 * reply[end]
        runs = reply[end + 1 : at]
        if not runs:
            return found
        start, now = f'{OURS}{self._keys.consumer}:', runtime.monotonic()
        # The runs of a second look follow those of the first, so that a list may come after a later one.
        owners = [(place, pair) for place, request in enumerate(batch) for pair in request.pairs]
        for place in range(0, len(runs), 2):
            owner, (queue, step) = owners[runs[place]]
            takens = found[owner].takens
            end = at + runs[place + 1]
            for raw in reply[at:end]:
                takens.append(Taken(queue, raw, f'{start}{number}:{step}', None, now))
                number += 1
            at = end
        return found

    def _orphaned(self, batch: list[Request], number: int, reply: Any) -> None:
        if isinstance(reply, Exception):
            return  # an error, or the end of the link: nothing was taken, or the lease will tell
        expect(reply, partial(is_fetched, batch), self._server.name)
        for found in self._taken_apart(batch, number, reply):
            self._give_back(found)

    def _give_back(self, found: Any) -> None:
        """Nobody waits for it any more."""
        if isinstance(found, Found):
            for taken in found.takens:
                self._settler.back(taken, UNSEEN)


def _fail(batch: list[Request], error: Exception) -> None:
    for request in batch:
        request.waiter.wake(error)


def is_fetched(batch: list[Request], reply: Any) -> bool:
    """Is it what the script returns for these requests?"""
    if reply.__class__ is not list or len(reply) < 5:
        return False
    at = 2
    parts = []
    for width in (1, 2, 2):
        count = reply[at] if at < len(reply) else None
        if count.__class__ is not int or not 0 <= count <= len(reply):
            return False
        parts.append(reply[at + 1 : at + 1 + width * count])
        if len(parts[-1]) != width * count:
            return False
        at += 1 + width * count
    unfinished, refused, runs = parts
    if not set(map(type, [*reply[:2], *unfinished, *refused[::2], *runs])) <= {int}:
        return False
    if min([*unfinished, *refused[::2], *runs], default=0) < 0 or reply[1] < 0:
        return False
    if max([*unfinished, *refused[::2]], default=-1) >= len(batch):
        return False
    if not all(isinstance(error, Exception) for error in refused[1::2]):
        return False
    if max(runs[::2], default=-1) >= sum(len(request.lists) for request in batch):
        return False
    return sum(runs[1::2]) == len(reply) - at and set(map(type, reply[at:])) <= {bytes, int}


def tell_of_strangers(key: str, count: int) -> None:
    """Members of the ZSET of delayed messages were none, and were taken out."""
    logger.error('%d members of %r are no delayed messages; they are kept in %r', count, key, f'{key}.dead')
