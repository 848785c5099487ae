"""Azure Service Bus: what a message costs, beside kombu on Microsoft's client, and that client alone.

`python -m benchmarks.servicebus [--messages 3000] [--rounds 3]` starts the program that plays the service.

CPU is that of the client's process, user and system, a message; each is in a process of its own, and they
take turns. The service's own part is not in it, nor is the way to it. Frames and idle queues as in `amqp10`.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import amqp10
from greenmq import Connection, Queue

PEERS = {
    'greenmq, 100 greenlets': ('greenmq', amqp10.GREENLETS), 'greenmq, one greenlet': ('greenmq', 1),
    'azure-servicebus': ('vendor', 1), 'kombu on azure-servicebus': ('kombu', 1),
}
#: What is promised of the first, in µs of CPU.
LIMIT = amqp10.MICROSECONDS
#: Messages for those that take a millisecond for each.
FEW = 500


def greenmq(bus: Any, greenlets: int, messages: int) -> dict[str, float]:
    """Publish and consume by ours."""
    amqp10.GREENLETS = greenlets
    with Connection(bus['url']) as connection:
        queue = Queue(bus['queue'], durable=False)
        queue(connection.default_channel).declare()
        sent = amqp10.publish(connection, queue.name, messages)
        got = amqp10.consume(connection, queue, messages + 1)
    frames = {name: got[2][kind] * 1000 / messages
              for name, kind in (('flows', 'Flow'), ('dispositions', 'Disposition'))}
    return {**_figures(sent, got[:2], messages), **frames}


def vendor(bus: Any, greenlets: int, messages: int) -> dict[str, float]:
    """Send one by one, receive by hundreds and complete one by one, as the client has it."""
    import time

    from azure.servicebus import ServiceBusClient, ServiceBusMessage

    body = amqp10.BODY
    with ServiceBusClient.from_connection_string(bus['text']) as client:
        with client.get_queue_sender(bus['queue']) as sender:
            sender.send_messages(ServiceBusMessage(body))
            began, spent = time.perf_counter(), time.process_time()
            for _ in range(messages):
                sender.send_messages(ServiceBusMessage(body))
            sent = time.perf_counter() - began, time.process_time() - spent
        with client.get_queue_receiver(bus['queue'], prefetch_count=100) as receiver:
            got, began, spent = 0, time.perf_counter(), time.process_time()
            while got < messages + 1:
                for message in receiver.receive_messages(100, max_wait_time=5):
                    receiver.complete_message(message)
                    got += 1
            taken = time.perf_counter() - began, time.process_time() - spent
    return _figures(sent, taken, messages)


def kombu(bus: Any, greenlets: int, messages: int) -> dict[str, float]:
    """Publish and get by kombu's transport, with its management put aside."""
    import time

    from azure.core.exceptions import ResourceExistsError
    from kombu import Connection as Theirs
    from kombu.transport import azureservicebus

    class Management:
        def create_queue(self, **facts: Any) -> None:
            raise ResourceExistsError('it is there')

        def get_queue_runtime_properties(self, queue: str) -> Any:
            return type('Facts', (), {'total_message_count': 0})

    def parse(self: Any) -> None:
        self._namespace, self._connection_string = 'peer', bus['text']

    azureservicebus.Channel._try_parse_connection_string = parse
    azureservicebus.Channel.queue_mgmt_service = Management()
    with Theirs('azureservicebus://p:k@peer') as connection:
        queue = connection.SimpleQueue(bus['queue'], serializer='raw')
        queue.put(amqp10.BODY)
        began, spent = time.perf_counter(), time.process_time()
        for _ in range(messages):
            queue.put(amqp10.BODY)
        sent = time.perf_counter() - began, time.process_time() - spent
        began, spent = time.perf_counter(), time.process_time()
        for _ in range(messages + 1):
            queue.get(timeout=10).ack()
        taken = time.perf_counter() - began, time.process_time() - spent
        queue.close()
    return _figures(sent, taken, messages)


def _figures(sent: tuple[float, float], got: tuple[float, float], messages: int) -> dict[str, float]:
    return {'publish': sent[1] / messages * 1e6, 'publish rate': messages / sent[0],
            'receive': got[1] / messages * 1e6, 'receive rate': messages / got[0]}


def alone(bus: Any, peer: str, messages: int) -> dict[str, float]:
    """One of them in a process of its own."""
    kind, greenlets = PEERS[peer]
    asked = json.dumps({**bus, 'kind': kind, 'greenlets': greenlets, 'messages': messages})
    said = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'benchmarks.servicebus', '--alone', asked],
                          capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(said.rpartition('FIGURES')[2])
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.servicebus', description=__doc__)
    parser.add_argument('--messages', type=int, default=3000)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--alone', help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.alone:
        asked = json.loads(options.alone)
        figures = globals()[asked['kind']](asked, asked['greenlets'], asked['messages'])
        print('FIGURES' + json.dumps(figures))
        return 0
    from tests.support.servicebus import ServiceBus

    turns: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    with ServiceBus() as server:  # type: ignore[no-untyped-call]
        for number in range(options.rounds):
            for at, peer in enumerate(PEERS):
                queue = f'bench-{number}-{at}'
                server.ask('create', name=queue)  # type: ignore[no-untyped-call]
                bus = {'url': server.url(), 'text': server.connection_string(), 'queue': queue}  # type: ignore[no-untyped-call]
                messages = options.messages // 100 * 100 if PEERS[peer][0] == 'greenmq' else FEW
                turns[peer].append(alone(bus, peer, messages))
        sockets, threads, waits = amqp10.idle(server.url())  # type: ignore[no-untyped-call]
    columns = ('publish', 'a second', 'receive', 'a second')
    print(f'{"µs of CPU a message; messages a second":38}' + ''.join(f'{each:>10}' for each in columns))
    middle = {
        peer: {name: statistics.median(turn[name] for turn in found) for name in found[0]}
        for peer, found in turns.items()
    }
    for peer, found in middle.items():
        print(f'{peer:38}{found["publish"]:10,.1f}{found["publish rate"]:10,.0f}'
              f'{found["receive"]:10,.1f}{found["receive rate"]:10,.0f}')
    ours = middle['greenmq, 100 greenlets']
    rows = [
        ('publish confirmed, 100 greenlets, µs of CPU', ours['publish'], LIMIT),
        ('receive + settle, µs of CPU', ours['receive'], LIMIT),
        ('flows sent for 1,000 received', ours['flows'], amqp10.FLOWS),
        ('dispositions sent for 1,000 received', ours['dispositions'], amqp10.DISPOSITIONS),
        (f'{amqp10.IDLE} idle queues: descriptors', sockets, None), ('  threads', threads, None),
        ('  waits a second', waits, None),
    ]
    missed = False
    for what, figure, limit in rows:
        late = limit is not None and figure > limit
        missed |= late
        verdict = '' if limit is None else f'   at most {limit:g}' + (': MISSED' if late else '')
        print(f'{what:48} {figure:12,.1f}{verdict}')
    print(f'load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors')
    return int(missed)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
