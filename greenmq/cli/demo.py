"""The demo: greenlets publish every line of some texts, others count the words, and the results come back.

Three connections, so that nothing which consumes publishes on the same one: the lines are consumed on one,
the results on another, and all that is published goes through ``pools.producers``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from greenmq import Connection, Exchange, Queue, connections, producers, runtime, uuid
from greenmq.cli.broker import opened
from greenmq.cli.corpus import Corpus, words
from greenmq.cli.report import Tally
from greenmq.exceptions import TimeoutError
from greenmq.message import Message
from greenmq.messaging import Consumer
from greenmq.mixins import ConsumerMixin

# Lines published and not yet counted. More would only wait in the queue, where they cost memory and latency.
WINDOW = 256
# What one consumer may hold: little, so that all of them get something to do.
PREFETCH = 16
# Seconds for the tasks to end when the run is over.
ENDING = 5.0
# Seconds without a result after which lines are taken for lost: the queues of a broker that crashed may have
# come back without them. What comes twice is counted once.
STALLED = 3.0
# Seconds in which a broker that goes away while we begin must be back.
BEGINNING = 30.0


class Counting(ConsumerMixin):
    """The daemon: several consumers on one connection, each result published on another.

    Arguments:
        connection (Connection): to consume on.
        publishing (Connection): whose pool of producers sends the results.
        lines (Queue): what to consume.
        consumers (int): how many.
        failed (Callable[[Exception], object]): told what a callback raised; a daemon would go on.
    """

    # A result goes to a broker that may be far away: what it takes there is waited for together.
    concurrency = PREFETCH

    def __init__(self, connection: Connection, publishing: Connection, lines: Queue, consumers: int,
                 failed: Callable[[Exception], object]) -> None:
        self.connection = connection
        self._failed = failed
        self._publishing = publishing
        self._lines = lines
        self._consumers = consumers

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Consumer]:
        """All alike; the broker deals the lines out among them."""
        return [Consumer(queues=[self._lines], callbacks=[self.on_line], accept=['json'],
                         prefetch_count=PREFETCH) for _ in range(self._consumers)]

    def on_line(self, body: Any, message: Message) -> None:
        """Count the words of one line, and send the result to where the line says."""
        result = {'words': Counter(words(body['line'])), 'latency': runtime.monotonic() - body['sent']}
        with producers[self._publishing].acquire(block=True) as producer:
            producer.publish(result, exchange='', routing_key=message.properties['reply_to'],
                             correlation_id=message.properties['correlation_id'], serializer='json',
                             retry=True)
        # Last: a line whose result was not sent is delivered again.
        message.ack()

    def on_callback_error(self, message: Message, exc: Exception) -> None:
        """A line that can't be counted or answered ends the run."""
        self._failed(exc)


class Demo:
    """One run of the demo on one broker.

    Arguments:
        url (str): the broker.
        corpus (Corpus): what to publish.
        publishers (int): greenlets that publish.
        consumers (int): consumers that count.
        seconds (float): after which no further line is published.
        advance (Callable[[int], object]): told how many more lines are done.
    """

    def __init__(self, url: str, corpus: Corpus, publishers: int, consumers: int, seconds: float,
                 advance: Callable[[int], object]) -> None:
        self._url = url
        self._lines = enumerate(corpus.every_line())
        self._publishers = publishers
        self._consumers = consumers
        self._seconds = seconds
        self._advance = advance
        self._tally = Tally()
        self._still_publishing = publishers
        self._underway: dict[str, str] = {}
        name = f'greenmq-demo-{uuid()}'
        self._exchange = Exchange(name, type='direct', auto_delete=True)
        self._line_queue = Queue(f'{name}.lines', self._exchange, routing_key='line')
        self._result_queue = Queue(f'{name}.results')

    def run(self) -> Tally:
        """Publish everything, collect every result, and take the queues away again.

        Raises:
            ClickException: the broker cannot be used, with its reason.
            OperationalError: the broker failed on the way (from the transport).
        Switches: yes. Killed at any point, it leaves no queue, no connection and no task behind.
        """
        self._window = runtime.Semaphore(WINDOW)
        self._outcome = runtime.Future()
        # Not opened before the others were: the broker is known to be there, and may go away now.
        publishing = Connection(self._url, transport_options={'connect_retries_timeout': BEGINNING})
        tasks = runtime.TaskGroup('greenmq-demo')
        with opened(self._url) as consuming, opened(self._url) as replies:
            try:
                replies.ensure(None, self._declare, timeout=BEGINNING)(replies)
                started = runtime.monotonic()
                self._enough = runtime.Deadline.after(self._seconds)
                self._start(tasks, publishing, consuming, replies)
                self._outcome.result()
                self._tally.seconds = runtime.monotonic() - started
            finally:
                tasks.kill()
                tasks.join(ENDING)
                self._delete(replies)
                producers[publishing].force_close_all()
                connections[publishing].force_close_all()
        return self._tally

    def _declare(self, connection: Connection) -> None:
        for queue in (self._line_queue, self._result_queue):
            queue(connection.default_channel).declare()

    def _delete(self, connection: Connection) -> None:
        try:
            for queue in (self._line_queue, self._result_queue):
                queue(connection.default_channel).delete()
        except (*connection.connection_errors, *connection.channel_errors):
            # Whoever waits for this run is being told about the broker already.
            return

    def _start(self, tasks: runtime.TaskGroup, publishing: Connection, consuming: Connection,
               replies: Connection) -> None:
        daemon = Counting(consuming, publishing, self._line_queue, self._consumers, self._fail)
        tasks.spawn(self._in_role, self._collect, replies, publishing, name='greenmq-demo-results')
        tasks.spawn(self._in_role, daemon.run, name='greenmq-demo-daemon')
        for number in range(self._publishers):
            tasks.spawn(self._in_role, self._publish, publishing, name=f'greenmq-demo-publisher-{number}')

    def _in_role(self, role: Callable[..., object], *args: Any) -> None:
        try:
            role(*args)
        except Exception as exc:                    # whatever it is, it ends the run, which raises it
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        if not self._outcome.done():
            self._outcome.set_exception(exc)

    def _publish(self, publishing: Connection) -> None:
        # All publishers take from one iterator. It never switches, so no two of them are ever inside.
        for number, line in self._lines:
            self._window.acquire()
            self._underway[str(number)] = line
            self._send(publishing, str(number), line)
            self._tally.lines += 1
            if self._enough.expired():
                break
        self._still_publishing -= 1
        self._end_if_all_is_counted()

    def _send(self, publishing: Connection, number: str, line: str) -> None:
        with producers[publishing].acquire(block=True) as producer:
            producer.publish({'line': line, 'sent': runtime.monotonic()}, exchange=self._exchange,
                             routing_key='line', serializer='json', retry=True, declare=[self._line_queue],
                             reply_to=self._result_queue.name, correlation_id=number)

    def _collect(self, replies: Connection, publishing: Connection) -> None:
        consumer = replies.ensure(None, self._consume_results, timeout=BEGINNING)(replies)
        with consumer:
            while True:
                try:
                    replies.drain_events(timeout=STALLED)
                except TimeoutError:
                    for number, line in list(self._underway.items()):
                        self._send(publishing, number, line)
                except replies.recoverable_connection_errors:
                    # Told once for each loss. Where channels outlive it, consuming goes on by itself.
                    if not getattr(replies.transport, 'keeps_channels', False):
                        raise
                self._end_if_all_is_counted()

    def _consume_results(self, replies: Connection) -> Consumer:
        consumer = replies.Consumer([self._result_queue], callbacks=[self._on_result], accept=['json'],
                                    prefetch_count=WINDOW)
        consumer.consume()
        return consumer

    def _on_result(self, body: Any, message: Message) -> None:
        number = message.properties['correlation_id']
        if number in self._underway:
            del self._underway[number]
            self._tally.words.update(body['words'])
            self._tally.latencies.append(body['latency'])
            self._window.release()
            self._advance(1)
        else:
            self._tally.again += 1
        message.ack()

    def _end_if_all_is_counted(self) -> None:
        if not self._still_publishing and not self._underway and not self._outcome.done():
            self._outcome.set_result(None)
