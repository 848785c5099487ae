"""What an author of a transport writes: one `Driver`. The rest of this package is what the base does with it.

A driver holds the client or socket of one broker. It knows no channel, no consumer, no prefetch and no retry:
it puts, takes and settles messages of queues, each call a batch. One driver serves all connections of one
native thread to one URL; the base calls it from tasks of its own, several at a time.

What holds for every method:

* it gets a `runtime.Deadline` and uses it for every wait; the base kills a call that does not;
* a killed call leaves the driver sound: what a `take` holds when it is cut is given back by the driver;
* it raises what its client raises: `errors` says what that means;
* it never blocks the hub: waits go through `greenmq.runtime`, blocking clients into a `runtime.Worker`.

The page "Write a transport" of the manual has a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from greenmq import runtime
from greenmq.transport.errors import Fault
from greenmq.transport.options import Option
from greenmq.transport.virtual.envelope import DELIVERY_COUNT, delivery_count
from greenmq.utils.encoding import bytes_to_str
from greenmq.utils.json import dumps, loads

__all__ = (
    'DEAD', 'REQUEUE', 'UNSEEN', 'Binding', 'Driver', 'Fault', 'Owner', 'Place', 'Put', 'Taken',
)  # fmt: skip

#: What becomes of a delivery that goes back: to its queue and counted; to its queue as if nobody had seen it;
#: to the broker's own place for dead letters.
REQUEUE, UNSEEN, DEAD = 'requeue', 'unseen', 'dead'


class Place(NamedTuple):
    """Where the broker is, and as whom to go there: what the URL and the Connection say.

    Attributes:
        url (str): the whole URL with password, for clients that read it themselves.
        credentials (Callable | None): the Connection's `credential_provider`.
        alternates (tuple[str, ...]): the URL's further hosts, as they stand there.
    """

    host: str
    port: int | None
    userid: str | None
    password: str | None
    virtual_host: str
    url: str
    ssl: Any = None
    login_method: str | None = None
    credentials: Any = None
    alternates: tuple[str, ...] = ()


class Put(NamedTuple):
    """One message to put.

    Attributes:
        queue (str): where to; '' for an exchange that the broker fans out itself.
        payload (object): what `encode` made.
        message (dict): what it was made of: body, headers, properties, content-type, content-encoding.
        delay (float): seconds until it may be taken; 0 for none.
        priority (int): 0 to 9.
        expires (float | None): when nobody may take it any more, in seconds since 1970.
    """

    queue: str
    exchange: str
    routing_key: str
    payload: Any
    message: dict[str, Any]
    delay: float = 0.0
    priority: int = 0
    expires: float | None = None


class Taken:
    """One message that was taken and is not settled yet.

    Arguments:
        queue (str): where it was taken from.
        payload (object): what `decode` reads.
        receipt (object): the broker's name for this delivery.
        deliveries (int | None): how often it was delivered before; None if the broker does not count: then
            the envelope does, see `Driver.again`.
        since (float): `runtime.monotonic()` when the lease began; now, if it is not given.
    Attributes:
        lost (bool): the lease ended, or the connection: it is not ours to settle any more.
    """

    __slots__ = ('deliveries', 'lost', 'payload', 'queue', 'receipt', 'renewed', 'since', 'tries')

    def __init__(
        self,
        queue: str,
        payload: Any,
        receipt: Any = None,
        deliveries: int | None = None,
        since: float | None = None,
    ) -> None:
        self.queue = queue
        self.payload = payload
        self.receipt = receipt
        self.deliveries = deliveries
        self.since = runtime.monotonic() if since is None else since
        self.renewed = self.since  # when the lease was extended last
        self.lost = False
        self.tries = 0  # failed tries to settle it

    def __repr__(self) -> str:
        return f'<Taken from {self.queue}: {self.receipt!r}{", lost" if self.lost else ""}>'


class Binding(NamedTuple):
    """One binding of a table that processes share.

    Attributes:
        kind (str): the type of the exchange.
    """

    exchange: str
    kind: str
    routing_key: str
    queue: str
    arguments: Any = None


class Owner(Protocol):
    """What a driver may tell the base, from its own thread's hub. Nothing here switches."""

    def arrived(self, takens: Iterable[Taken]) -> None:
        """Messages came that the base had asked for with `want`."""

    def refused(self, taken: Taken, reason: str) -> None:
        """The broker will not keep a message that we hold: it goes where the dead letters of its queue go.

        Arguments:
            reason (str): as in `x-death`: "maxlen", "expired".
        """

    def look(self, queue: str | None = None) -> None:
        """There may be messages in a queue (None: in any): take again now."""

    def changed(self, exchange: str | None = None) -> None:
        """Somebody changed the bindings of an exchange (None: of any)."""

    def lost(self, error: Exception) -> None:
        """The connection to the broker ended."""

    def next_host(self) -> None:
        """The host does not answer: `place` becomes the next one of the URL, if there are more.

        For drivers that connect again by themselves.
        """

    def turn(self, deadline: runtime.Deadline) -> runtime.Deadline:
        """Until when the present host may be silent before the next one has its turn; for the same drivers.

        Arguments:
            deadline (Deadline): of the whole try.
        """


class Begin(Protocol):
    """Begins a take that needs no task, for clients that are called back."""

    def __call__(
        self, queues: list[str], n: int, max_bytes: int, seconds: float,
        done: Callable[[list[Taken], Exception | None], bool],
    ) -> Any:  # fmt: skip
        """As `Driver.take`, but it returns at once, and must not switch.

        The driver keeps the time: nobody else notices that `done` is not called.

        Arguments:
            done (Callable): to be called once, after this has returned, with what was taken and what it met;
                never switches. If it returns False nobody wants the messages any more, and the driver gives
                them back.
        Returns:
            object: ends it by `kill()`, which must not switch: `done` is not called then, and what was taken
                goes back. None: have `take` called by a task.
        Raises:
            Exception: as `take`, and tried again.
        """


class Driver:
    """One broker, as the base uses it. Subclass it; name the class in `Transport.Driver`.

    Arguments:
        place (Place): where to; changes before an `open` that follows a failover.
        settings (Mapping): the transport options, each of the right type, defaults filled in.
        owner (Owner): whom to tell.
    """

    # ---- what the broker is like

    #: How messages come. 'wait': `take` waits at the broker. 'poll': it returns at once, and the base looks
    #: again after a pause that grows up to `polling_interval`. 'push': the driver calls `owner.arrived`.
    delivery: ClassVar[str] = 'wait'
    #: 'all': one `take`, `put` or `settle` may be about any queues; 'each': about one queue.
    groups: ClassVar[str] = 'all'
    #: A `take` on its way must not be killed: it is left to end alone, and what it brings is given back.
    uncut: ClassVar[bool] = False
    begin: Begin | None = None  # takes without a task, where the client is called back
    #: Seconds that one `take` may wait at the broker.
    wait_seconds: float = 10.0
    #: Messages that one `take` may bring.
    take_batch: int = 100
    #: Seconds that a delivery is ours without `extend`; None for as long as we are connected.
    lease_seconds: float | None = None
    #: Seconds after which the broker extends a lease no more; None for no limit.
    lease_limit: float | None = None
    #: Does a delivery stay ours when the connection is lost and opened again?
    survives_loss: ClassVar[bool] = True
    #: Settlements that one call may carry, and seconds that the first of them may wait for others.
    settle_batch: int = 100
    settle_hold: float = 0.0
    #: Messages that one `put` may carry, and how many `put` calls may be under way at once.
    put_batch: int = 100
    max_puts: int = 1
    #: Every method ends by its deadline by itself, and may be killed anywhere: it is called in the greenlet
    #: that wants it, without a task around it. A publisher that is alone is spared a switch or two.
    keeps_deadline: ClassVar[bool] = False
    #: `put` itself keeps its deadline and may be killed anywhere: it is called by the publisher's own
    #: greenlet, with its own messages alone. For clients that pipeline what many greenlets send.
    put_direct: ClassVar[bool] = False
    #: Bytes of a payload, and seconds of a delay, that the broker takes; None for no limit.
    max_payload: int | None = None
    max_delay: float | None = 0.0
    #: Is the receipt, a text, the delivery tag that programs see? Else channels number their deliveries.
    names_tags: ClassVar[bool] = False
    #: Can `encode` write the time of a death, a datetime, into a header? Else it is seconds since 1970.
    writes_times: ClassVar[bool] = False
    #: Is what is settled as DEAD for the driver to settle? See `keeps_dead`.
    dead_letters: ClassVar[bool] = False
    #: Types of exchanges that may be declared.
    exchange_types: ClassVar[frozenset[str]] = frozenset(('direct', 'fanout', 'headers', 'topic'))
    #: Are the bindings kept at the broker, for all processes?
    shared_bindings: ClassVar[bool] = False
    #: Is `owner.changed` told of every change of bindings that were read? Then the base believes them until
    #: then, or until `owner.lost`; else for a second. A driver may answer by a property.
    tells_changes: bool = False
    #: 'copies': the base puts a fanout message into each bound queue; 'native': the broker fans out, and is
    #: told of the bindings of fanout exchanges by `bind` and `unbind`. A driver may set it for itself.
    fanout: str = 'copies'
    #: Types of exchanges that the broker routes itself: of what is published to one it gets a single `Put`,
    #: with '' for the queue, and it is told of bindings by `bind` and `unbind`. A driver may set it.
    native: frozenset[str] = frozenset()
    #: What names of queues begin with that are made up here. A driver may set it for itself.
    made_up: str = 'amq.gen-'
    #: What of the Connection's parameters it understands, beyond host, port, user, password, virtual_host and
    #: `connect_timeout`: 'ssl', 'login_method', 'credentials'. Others are refused by name.
    understands: ClassVar[frozenset[str]] = frozenset()
    #: The client's errors (a class, or a predicate) → a class of ours, or a `Fault`. The first that fits.
    errors: ClassVar[Mapping[Any, Any]] = {}
    #: The transport options of this driver, beyond those of `driver.options`.
    options: ClassVar[dict[str, Option]] = {}
    #: Does `encode` write a form of its own? It gets bodies as they are, bytes too, and no `delivery_tag`.
    own_envelope: ClassVar[bool] = False
    #: How `encode` writes bodies: 'base64', or None for text as it is.
    body_encoding: str | None = 'base64'

    def __init__(self, place: Place, settings: Mapping[str, Any], owner: Owner) -> None:
        self.place = place
        self.settings = settings
        self.owner = owner

    # ---- the connection

    def open(self, deadline: runtime.Deadline) -> None:
        """Connect, or find out that the broker is there. Called again after a loss."""

    def close(self, deadline: runtime.Deadline) -> None:
        """Let go of the broker. Nothing is called after it."""

    def ping(self, deadline: runtime.Deadline) -> None:
        """Have the broker answer, and change nothing."""
        raise NotImplementedError(f'{type(self).__name__}.ping')

    def forget(self) -> None:
        """In a forked child: let go of the client without a byte to the broker. Must not switch.

        The runtime has closed the streams that it knows.
        """

    def version(self) -> str:
        """The version of the client library."""
        return 'N/A'

    # ---- messages

    def put(self, items: list[Put], deadline: runtime.Deadline) -> Iterable[Exception | None] | None:
        """Put messages into their queues.

        Returns:
            Iterable[Exception | None]: what each item met, in their order; None for all of them if all
                arrived.
        Raises:
            Exception: what all items met.
        """
        raise NotImplementedError(f'{type(self).__name__}.put')

    def take(self, queues: list[str], n: int, max_bytes: int, seconds: float) -> Iterable[Taken]:
        """Take up to n messages, and about `max_bytes`, waiting up to some seconds for the first.

        Arguments:
            seconds (float): 0 looks only; so does every `take` of delivery 'poll'.
        Returns:
            Iterable[Taken]: in the order of their queues; none if none came.
        """
        raise NotImplementedError(f'{type(self).__name__}.take')

    def settle(
        self, done: list[Taken], back: list[tuple[Taken, str]], deadline: runtime.Deadline
    ) -> Iterable[tuple[Taken, Exception | None]] | None:
        """Forget what is done, and give back the rest, each oldest first.

        What goes back shall stand in that order at the front of its queue, where the broker has one. May be
        called again with the same ones, after a failure.

        Arguments:
            back (list[tuple[Taken, str]]): with what becomes of it: REQUEUE, UNSEEN or DEAD.
        Returns:
            Iterable[tuple[Taken, Exception | None]]: those that could not be settled: with None if somebody
                else has it by now, else with an error, after which it's tried again.
        """
        raise NotImplementedError(f'{type(self).__name__}.settle')

    def extend(
        self, takens: list[Taken], seconds: float, deadline: runtime.Deadline
    ) -> Iterable[Taken] | None:
        """Have leases last some seconds from now.

        Returns:
            Iterable[Taken]: those whose lease had ended already.
        """
        raise NotImplementedError(f'{type(self).__name__}.extend')

    def want(self, queue: str, n: int) -> None:
        """Delivery 'push': up to n messages of this queue may come from now on; 0 for none.

        Must not switch. What comes all the same is given back.
        """

    def cut(self, deadline: runtime.Deadline) -> None:
        """Takes were killed: wait until what they may have taken at the broker has gone back.

        For brokers that answer a take whose caller is gone: so what it took goes back first.
        """

    def dropped(self, channel: Any, queue: str) -> None:
        """A channel consumes a queue no more. Must not switch."""

    # ---- queues

    def make(self, queue: str, facts: Mapping[str, Any], deadline: runtime.Deadline) -> int | None:
        """Make a queue; it may exist.

        Arguments:
            facts (Mapping): durable, exclusive, auto_delete (bool), arguments (dict), as AMQP has them.
        Returns:
            int: how many messages wait in it, where the broker tells on the way; None to have `size` asked.
        """
        raise NotImplementedError(f'{type(self).__name__}.make')

    def has(self, queue: str, deadline: runtime.Deadline) -> bool:
        """Tell whether a queue exists."""
        raise NotImplementedError(f'{type(self).__name__}.has')

    def facts(self, queue: str, deadline: runtime.Deadline) -> Mapping[str, Any] | None:
        """Return what another process made a queue with, as `make` gets it; None if it is not known.

        The base asks where it consumes a queue that was not declared here, for its place for dead letters.
        """
        return None

    def size(self, queue: str, deadline: runtime.Deadline) -> int:
        """Return how many messages wait in a queue, about; 0 if there is no such queue."""
        raise NotImplementedError(f'{type(self).__name__}.size')

    def purge(self, queue: str, deadline: runtime.Deadline) -> int:
        """Remove the messages that nobody has taken; return how many, about."""
        raise NotImplementedError(f'{type(self).__name__}.purge')

    def delete(self, queue: str, deadline: runtime.Deadline) -> None:
        """Delete a queue with its messages; none of that name is fine."""
        raise NotImplementedError(f'{type(self).__name__}.delete')

    def queues(self, deadline: runtime.Deadline) -> Iterable[Mapping[str, Any]] | None:
        """Return all queues at the broker, for people; None if it does not list them.

        Returns:
            Iterable[Mapping[str, object]]: the 'name' of each; where it is known, 'unacked' and 'delayed'
                (messages), 'oldest' (seconds that the oldest one has been there), 'dead_letters' (where to).
        """
        return None

    def keeps_dead(self, queue: str) -> bool:
        """Tell whether the broker keeps what is settled as DEAD, as far as it is known. Must not switch."""
        return self.dead_letters

    # ---- bindings, where `shared_bindings`, and of exchanges that the broker routes itself

    def bindings(self, exchange: str, deadline: runtime.Deadline) -> Iterable[Binding]:
        """Return the bindings of an exchange. The base remembers them, see `tells_changes`."""
        return ()

    def fans_out(self, exchange: str, bindings: list[Binding]) -> list[Binding]:
        """Return the bindings of a fanout exchange as they are to be used, of those that `bindings` gave.

        For a broker whose other programs are reached another way: a binding may stand for all of them, its
        queue being a name that `put` knows.
        """
        return bindings

    def bind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """Keep a binding; it may be there already."""

    def unbind(self, binding: Binding, deadline: runtime.Deadline) -> None:
        """Forget a binding; none like it is fine."""

    def drop_exchange(self, exchange: str, deadline: runtime.Deadline) -> None:
        """Delete an exchange of a `native` type; none of that name is fine."""

    # ---- now and then

    def sweep(self, deadline: runtime.Deadline) -> None:
        """Give back what consumers hold that are gone. Called each `sweep_interval`, if overridden."""

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for the health page."""
        return {}

    # ---- the envelope: kombu's JSON unless overridden

    def encode(self, message: dict[str, Any]) -> Any:
        """Return the payload of a message, whose body is text by now, but see `own_envelope`.

        What can't be sent raises here.
        """
        return dumps(message)

    def decode(self, taken: Taken) -> dict[str, Any]:
        """Return the message in a payload, with `body`, `headers` and `properties` at least.

        Whatever this raises is that message's fault: it is put aside, see `driver.arrival`.
        """
        payload = taken.payload
        return loads(bytes_to_str(payload) if isinstance(payload, (bytes, bytearray)) else payload)  # type: ignore[no-any-return]

    def again(self, taken: Taken, fate: str) -> Any:
        """Return the payload to put back, for brokers that do not count: marked, and counted once more."""
        message = self.decode(taken)
        if fate != UNSEEN:
            headers = message['headers'] = dict(message.get('headers') or ())
            headers[DELIVERY_COUNT] = delivery_count(headers) + 1
            message['redelivered'] = True
        return self.encode(message)
