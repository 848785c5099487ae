"""How a channel takes messages: one script takes and registers, and a wait that takes nothing.

The fetch task of the channel (`virtual.fetch`) calls `_get_many`. A fetch that brought fewer than it had room
for has read the length of every list, so CLIENT TRACKING tells of the next LPUSH by anybody: that is what is
waited for, without a command. After `health_check_interval` it fetches all the same: consuming is proved
again, not assumed (P25). Without tracking `lookout` waits for the lists, or it looks again after 10 to
500 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from greenmq import runtime
from greenmq.exceptions import AMQPError, ConnectionLost, DecodeError, OperationalError, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.redis.envelope import EXPIRES_AT, opened
from greenmq.transport.redis.fetched import FETCH_BYTES, MORE, Orphan, is_fetched, tagged, tell_of_strangers
from greenmq.transport.redis.keys import Home
from greenmq.transport.redis.scripts import FETCH
from greenmq.transport.redis.settling import AGAIN, UNTOUCHED
from greenmq.transport.redis.watches import Alarm
from greenmq.transport.virtual.consuming import ConsumeMethods
from greenmq.transport.virtual.envelope import DELIVERY_COUNT
from greenmq.transport.virtual.settlement import SettleMethods
from greenmq.transport.virtual.unmade import settle_unmade

__all__ = ('RedisConsuming',)

logger = get_logger('greenmq.transport.redis')

#: Seconds between two looks where the server does not tell of new messages: first, doubled up to the last.
FIRST_LOOK, LAST_LOOK = 0.01, 0.5
#: The same where a blocking command waits for every list: only delayed messages come without a word.
DELAYED_LOOK = 1.0

#: Seconds that a fetch waits for one node of a cluster, before it asks the next.
NODE_PATIENCE = 1.0

#: Seconds to say that a queue is used.
PATIENCE = 10.0

#: Begins the tags of deliveries that are not kept in Redis (of a fanout).
LOCAL = 'local:'

Item = tuple[str, Any]


class Plan:
    """What a fetch of some queues asks for; made once for a set of queues."""

    def __init__(self, keys: Any, queues: tuple[str, ...], backwards: bool, rotates: bool) -> None:
        self.queues = queues
        self.rotates = rotates and len(queues) > 1
        steps = tuple(reversed(keys.steps)) if backwards else keys.steps
        self.turns = [self._turn(keys, queues, steps)]
        if self.rotates:
            self.turns = [
                self._turn(keys, queues[first:] + queues[:first], steps) for first in range(len(queues))
            ]
        self.keys = [key for queue in queues for key in keys.lists(queue)]
        #: The same lists, those that most messages come to first.
        self.lists = [keys.list_of(queue, step) for step in keys.steps for queue in queues]
        self.homes = {keys.home(queue): None for queue in queues}
        self.keys += [home.delayed for home in self.homes]
        self.next = 0

    @staticmethod
    def _turn(keys: Any, queues: tuple[str, ...], steps: tuple[int, ...]) -> list[Any]:
        """For each home: (home, lists, words about them, queue and step of each)."""
        homes: dict[Home, list[tuple[str, int]]] = {}
        for step in steps:
            for queue in queues:
                homes.setdefault(keys.home(queue), []).append((queue, step))
        return [
            (
                home,
                [keys.list_of(queue, step) for queue, step in pairs],
                [word for queue, step in pairs for word in (step, keys.value_end(queue))],
                pairs,
            )
            for home, pairs in homes.items()
        ]

    def turn(self) -> list[Any]:
        """The next turn: the queues in another order. Switches: no."""
        self.next = (self.next + 1) % len(self.turns)
        return self.turns[self.next]


class RedisConsuming(ConsumeMethods, SettleMethods):
    """_get_many and its relatives."""

    _session: Any
    _keys: Any
    _settler: Any
    _amqp_order: bool
    queue_order_strategy: str
    _dead_letter: Any
    _queue_of: dict[str, str]
    _burying: dict[str, str]
    _fanout: Any
    _fanout_queues: dict[str, tuple[str, str]]

    def _prepare_consuming(self) -> None:
        self._alarm = Alarm()
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._watched: list[str] = []
        self._asked: str | None = None  # a key of the home that a fetch was sent to and has not answered
        #: When this channel last asked the server for messages, for the watchdog.
        self.fetched_at: float | None = None

    def _consume_anew(self) -> None:
        # A fetch of the other thread may wait on the old alarm until that runs again.
        self._session.unwatch(self._watched, self._alarm)
        self._alarm, self._watched, self._asked = Alarm(), [], None

    def _plan(self, queues: Iterable[str]) -> Plan:
        names = tuple(sorted(queues) if self.queue_order_strategy == 'sorted' else queues)
        plan = self._plans.get(names)
        if plan is None:
            if len(self._plans) > 100:
                self._plans.clear()
            rotates = self.queue_order_strategy == 'round_robin'
            plan = self._plans[names] = Plan(self._keys, names, self._amqp_order, rotates)
        return plan

    def _get_many(self, queues: Iterable[str], n: int = 1, timeout: float | None = None) -> list[Item]:
        """Take up to n messages of some queues, waiting for the first.

        Arguments:
            timeout (float): seconds; 0 does not wait.
        Returns:
            list[tuple[str, dict]]: (queue, message) each, registered as ours.
        Raises:
            ConnectionClosed: we closed the connection. Others: the server refuses.
        Switches: yes. Killed: what it took goes back to where it was.
        """
        plan = self._plan(queues)
        if not timeout:
            return self._fetch(plan, n)[0]
        self._watch_for(plan)
        deadline = runtime.Deadline.after(timeout)
        look = FIRST_LOOK
        while True:
            self._alarm.set()
            try:
                items, due, more = self._fetch_or_hand_on(plan, n)
                if more:
                    self._session.hand_on(plan.keys)
            except ConnectionLost:
                # Told to the drains by the connection, once. We go on when there is another (P25).
                runtime.sleep(FIRST_LOOK)
                self._session.wait_open(None)
                continue
            if items:
                return items
            pause = deadline.remaining() if due is None else min(deadline.remaining() or 0.0, due)
            assert pause is not None
            if not self._session.tracks:
                covered = self.connection.lookout.arm(plan.lists)
                pause, look = min(pause, DELAYED_LOOK if covered else look), min(look * 2, LAST_LOOK)
            try:
                self._alarm.wait(max(pause, 0.001))
            except BaseException:
                if self._alarm.rung:
                    self._session.hand_on(plan.keys)  # we were the one that was told
                raise
            if deadline.expired():
                return []

    def _fetch_ended(self, deadline: runtime.Deadline) -> None:
        key, self._asked = self._asked, None
        if key is not None and self._session.connected and not runtime.in_hub():
            try:
                # Answered after the fetch: then what that took is known, and goes back in its place.
                self._session.execute(('EXISTS', key), key, deadline)
            except (AMQPError, OperationalError, OSError) as error:
                logger.debug('%r: a fetch was not answered before the end: %s', self, error)

    def _fetch_or_hand_on(self, plan: Plan, n: int) -> tuple[list[Item], float | None, bool]:
        try:
            return self._fetch(plan, n)
        except BaseException:
            self._session.hand_on(plan.keys)  # somebody else looks instead
            raise

    def _watch_for(self, plan: Plan) -> None:
        if self._watched is not plan.keys:
            self._session.unwatch(self._watched, self._alarm)
            self._session.watch(plan.keys, self._alarm)
            self._watched = plan.keys

    def _fetch(self, plan: Plan, n: int) -> tuple[list[Item], float | None, bool]:
        """Ask: the messages, seconds until the next delayed one is due, and whether there may be more.

        What was taken and is no message (any more) is settled here, and then it is asked again: none that can
        be delivered is not none.
        """
        n = min(max(n, 1), self.connection._fetch_batch)
        while True:
            items: list[Item] = []
            due, more = self._fetch_once(plan, n, items)
            if items or not more:
                return items, due, more

    def _fetch_once(self, plan: Plan, n: int, items: list[Item]) -> tuple[float | None, bool]:
        due: float | None = None
        more = False
        for home, lists, words, pairs in plan.turn():
            if n <= len(items):
                break
            room = n - len(items)
            number = self.connection._next_numbers(room)
            deadline = runtime.Deadline.after(NODE_PATIENCE) if self._keys.cluster else None
            self._asked = home.unacked
            transport = self.connection
            try:
                reply = self._session.run(
                    FETCH,
                    (home.unacked, home.times, home.own, home.lease, home.consumers, home.delayed, *lists),
                    (
                        room, number, self._keys.consumer, transport._lease_ms, FETCH_BYTES,
                        transport.max_message_bytes, *words,
                    ),
                    deadline,
                    orphan=Orphan(self._settler, self._keys, pairs, number),
                    shape=partial(is_fetched, len(pairs)),
                )
            except (ConnectionLost, TimeoutError):
                if not self._keys.cluster:
                    self._abandon(items)
                    raise
                due = min(due or 1e9, 0.1)  # the other nodes' queues are served all the same
                continue
            except BaseException:
                self._abandon(items)
                raise
            self._asked = None
            self.fetched_at = runtime.monotonic()
            if reply[0] >= 0:
                due = min(due or 1e9, reply[0] / 1000 + 0.001)
            if reply[1]:
                tell_of_strangers(home.delayed, reply[1])
            items += self._opened(reply, pairs, number)
            more = more or reply[0] == MORE
        return due, more

    def _opened(self, reply: list[Any], pairs: list[tuple[str, int]], number: int) -> list[Item]:
        items: list[Item] = []
        for queue, tag, raw in tagged(reply, pairs, self._keys, number):
            if self._keys.cluster:
                self._queue_of[tag] = queue
            try:
                message = opened(raw, tag)
            except DecodeError as error:
                settle_unmade(self, tag, queue, error)
                continue
            if (EXPIRES_AT in message['properties'] or self.max_deliveries) and self._is_over(
                message, queue, tag
            ):
                continue
            items.append((queue, message))
        return items

    def _keep_unmade(self, raw: Any, queue: str) -> str:
        tag = raw if isinstance(raw, str) else raw['properties']['delivery_tag']
        if not tag.startswith('gm:'):
            return 'It was heard on a fanout exchange, and is dropped.'
        dead = self._keys.dead(queue)
        self._give_back_tag(queue, tag, f'd{dead}')
        return f'It is kept in the list {dead!r}.'

    def _is_over(self, message: dict[str, Any], queue: str, tag: str) -> bool:
        """Has it expired, or was it delivered too often by consumers that died? Then it's settled here."""
        expires_at = message['properties'].get(EXPIRES_AT)
        if type(expires_at) in (int, float) and time.time() * 1000 >= expires_at:
            reason = 'expired'
        elif self.max_deliveries and _count(message) >= self.max_deliveries:
            reason = 'delivery_limit'
        else:
            return False
        runtime.spawn(self._refuse, message, queue, tag, reason, name='redis-refuse', owner=self)
        return True

    def _refuse(self, message: dict[str, Any], queue: str, tag: str, reason: str) -> None:
        delivery = self.Message(message, channel=self)
        delivery.queue = queue
        try:
            self._dead_letter(delivery, reason)
        except (AMQPError, OSError) as error:
            logger.warning('%r: could not dead-letter %s, it is delivered again: %s', self, tag, error)
            self._give_back_tag(queue, tag, UNTOUCHED)
            return
        self._reject_tag(tag, False, queue)

    # ------------------------------------------------------------- settlements

    def _tag_home(self, tag: str) -> str:
        """The queue of a tag, where queues have homes of their own: in a cluster."""
        return self._queue_of.pop(tag, '')

    def _ack_tag(self, tag: str) -> None:
        if tag.startswith('gm:'):
            self._settler.ack(self._tag_home(tag) if self._keys.cluster else '', tag, self._waiting)

    def _reject_tag(self, tag: str, requeue: bool, queue: str = '') -> None:
        buried = self._burying.pop(tag, None)
        if not tag.startswith('gm:'):
            return
        if requeue:
            self._give_back_tag(queue, tag, AGAIN)
        elif buried is not None:
            self._give_back_tag(queue, tag, f'd{buried}')
        else:
            self._ack_tag(tag)

    def _give_back_tag(self, queue: str, tag: str, fate: str) -> None:
        if tag.startswith('gm:'):
            self._settler.give_back(self._tag_home(tag) or queue, tag, fate)

    def _abandon(self, items: list[Item]) -> None:
        """Give back what a fetch brought too late, as if it had never been taken. Switches: no."""
        for queue, message in items:
            self._give_back_tag(queue, message['properties']['delivery_tag'], UNTOUCHED)

    def _restore_at_beginning(self, message: Any) -> None:
        self._give_back_message(message, UNTOUCHED if getattr(message, 'unseen', False) else AGAIN)

    def _give_back_message(self, message: Any, fate: str) -> None:
        tag = message.delivery_tag
        if isinstance(tag, str) and tag.startswith(LOCAL):
            self._fanout.again(self, message)
        else:
            self._give_back_tag(getattr(message, 'queue', '') or '', str(tag), fate)

    def _put_back(self, messages: list[Any]) -> None:
        # No callback has seen them: they go back as if they had never been taken.
        for message in messages:
            self._give_back_message(message, UNTOUCHED)
            self.qos.ack(message.delivery_tag)

    def _low(self) -> bool:
        # At half and not one by one, with a prefetch too: a fetch costs the same for one message as for many.
        return bool(self._waiting() * 2 <= (self.qos.prefetch_count or self.fetch_ahead))

    # ---------------------------------------------------------------- the API

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """See `virtual.Channel.basic_get`. Switches: yes. Killed: nothing is taken."""
        self.connection.expiry.got(queue, runtime.Deadline.after(PATIENCE))
        return super().basic_get(queue, no_ack, **kwargs)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> bool | None:
        """See `virtual.Channel.basic_reject`. Switches: only to dead-letter."""
        if requeue and not self.closed and runtime.is_here(self._hub) and str(delivery_tag).startswith(LOCAL):
            message = self.qos._delivered.get(delivery_tag)
            self.qos.ack(delivery_tag)
            if message is not None:
                self._fanout.again(self, message)
            return None
        return super().basic_reject(delivery_tag, requeue)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """Take one message of a queue, or raise Empty."""
        from greenmq.transport.virtual.parts import Empty

        for _, message in self._get_many([queue], 1, timeout):
            return message
        raise Empty()

    def _get_one(self, queue: str) -> Any:
        return self._get(queue)

    def _make_message(self, raw: Any, queue: str) -> Any:
        message = self.Message(raw, channel=self)
        message.queue = queue
        return message


def _count(message: dict[str, Any]) -> int:
    count = (message.get('headers') or {}).get(DELIVERY_COUNT, 0)
    return count if isinstance(count, int) else 0
