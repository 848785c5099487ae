"""Mistakes of a keyboard, each in a line that says so: mypy --strict names all of them, and nothing else."""

from __future__ import annotations

from greenmq import Connection, Consumer, Exchange, Queue, connections, producers
from greenmq.mixins import ConsumerMixin
from greenmq.types import Channel

connection = Connection('memory://', conect_timeout=3)  # typo


def publish() -> None:
    with producers[connection].acquire() as producer:
        producer.publsh({})  # typo
        producer.publish({}, routng_key='a')  # typo
        producer.publish_nowait({}).reslt()  # typo
    connection.Producer(exchnge='a')  # typo
    connection.ensure(producer, producer.publish)({}, exchnge='a')  # typo


def declare() -> None:
    Queue('a', exchnge=Exchange('a'))  # typo
    Exchange('a', typ='topic')  # typo
    Queue('a', durabel=True)  # typo
    connection.channel().queue_declre('a')  # typo
    connection.default_channel.queue_declare('a', durabl=True)  # typo


def take() -> None:
    message = Queue('a')(connection).get()
    message.ack()  # typo: there may be none
    if message is not None:
        message.akc()  # typo
    queue = connection.SimpleQueue('a')
    queue.get(timeout=1).paylod  # typo  # noqa: B018
    queue.put('a', prioriti=1)  # typo
    connection.drain_events(timeot=1)  # typo
    Consumer(connection, queues=[Queue('a')], calbacks=[print])  # typo
    with connections[connection].acquire() as leased:
        leased.default_chanel  # typo  # noqa: B018
    connection.transport.driver_nam  # typo  # noqa: B018


class Worker(ConsumerMixin):
    def get_consumers(self, Consumer: type[Consumer], channel: Channel) -> list[Consumer]:
        channel.basic_qso(0, 1)  # typo
        return [Consumer(queus=[Queue('a')])]  # typo
