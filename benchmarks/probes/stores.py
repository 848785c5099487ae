"""Publish, consume and ack small dicts through a store; time and CPU for each message.

`python -m benchmarks.probes.stores PACKAGE STORE MESSAGES [URL]`, STORE one of file, filesystem, sqlite,
and with the URL of a PostgreSQL postgresql and pgmq; each run has a folder or database of its own. STORE
may also be the URL of a server, used as it is. kombu is patched by gevent first, as its users do.
"""

from __future__ import annotations

import sys

if sys.argv[1:2] == ['kombu']:
    from gevent import monkey

    monkey.patch_all()

import importlib
import json
import os
import subprocess
import tempfile
import time
import uuid

import gevent

BODY = {'id': 7, 'name': 'greenlet', 'tags': ['a', 'b'], 'ok': True}
GREENLETS = 100
CROWD = 8
#: Seconds between two messages for which somebody waits.
PAUSE = 0.02


def place(store, folder):
    """URL and transport options of a store in a folder, or of a server that runs."""
    if '://' in store:
        return store, {}
    if store == 'filesystem':
        os.makedirs(f'{folder}/data')
        os.makedirs(f'{folder}/control')
        return 'filesystem://', {
            'data_folder_in': f'{folder}/data', 'data_folder_out': f'{folder}/data',
            'control_folder': f'{folder}/control',
        }  # fmt: skip
    return {'file': f'file://{folder}', 'sqlite': f'sqla+sqlite:///{folder}/broker.db'}[store], {}


def floor(folder):
    """What it takes to append one page to a file and bring it to the disk."""
    with open(f'{folder}/floor', 'wb', buffering=0) as file:
        def write():
            file.write(bytes(4096))
            os.fdatasync(file.fileno())

        return bare(write)


def bare(write, count=300, woken=100):
    """How many such writes a loop does in a second, and the ms of one with the pauses of `Probe.wakeups`."""
    start = time.perf_counter()
    for _ in range(count):
        write()
    rate, times = count / (time.perf_counter() - start), []
    for _ in range(woken):
        time.sleep(PAUSE)
        start = time.perf_counter()
        write()
        times.append(time.perf_counter() - start)
    return {'floor_rate': rate, **percentiles('floor', times)}


def percentiles(name, seconds):
    """The middle and the 99th of a hundred, in ms."""
    ordered = sorted(1e3 * each for each in seconds)
    return {f'{name}_p50': ordered[len(ordered) // 2], f'{name}_p99': ordered[int(len(ordered) * 0.99)]}


class Server:
    """A database of its own at a PostgreSQL that has pg_stat_statements, and what was asked of it."""

    def __init__(self, url, store):
        import psycopg

        self.base, self.name = url.rpartition('/')[0], f'bench_{uuid.uuid4().hex[:12]}'
        self.client = psycopg.connect(url, autocommit=True)
        self.client.execute(f'CREATE DATABASE {self.name}')
        self.client.execute('CREATE EXTENSION IF NOT EXISTS pg_stat_statements')
        if store == 'pgmq':
            from pgmq.install import get_embedded_install_sql, install_pgmq_sql

            install_pgmq_sql(get_embedded_install_sql(), dsn=f'{self.base}/{self.name}')

    def place(self, package, store):
        path = f'{self.base}/{self.name}'.partition('://')[2]
        if store == 'pgmq':
            return f'pgmq://{path}', {'init_extension': False} if package == 'kombu' else {}
        return f'{"sqla+postgresql+psycopg" if package == "kombu" else "postgresql"}://{path}', {}

    def statements(self):
        """How many were run in the database, BEGIN and COMMIT included."""
        return self.client.execute(
            'SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE toplevel AND dbid = '
            '(SELECT oid FROM pg_database WHERE datname = %s)', [self.name]
        ).fetchone()[0]

    def floor(self):
        """What it takes to INSERT and commit a text as long as a message, and nothing else."""
        import psycopg

        with psycopg.connect(f'{self.base}/{self.name}', autocommit=True) as client:
            client.execute('CREATE TABLE bare (id BIGSERIAL PRIMARY KEY, payload TEXT)')
            insert = 'INSERT INTO bare (payload) VALUES (%s)'
            return bare(lambda: client.execute(insert, ['x' * 600], prepare=True))

    def close(self):
        self.client.execute(f'DROP DATABASE {self.name} WITH (FORCE)')
        self.client.close()


class Probe:
    """One package on one store."""

    def __init__(self, package, url, options, server=None):
        self.server, self.url, self.options = server, url, options
        self.package = importlib.import_module(package)
        self.connect = lambda: self.package.Connection(url, transport_options=dict(options))
        exchange = self.package.Exchange('bench', type='direct')
        self.queue = self.package.Queue('bench', exchange, routing_key='bench')
        self.woken = {}  # when each message came for which somebody waited, by when it was sent
        self.seen = 0

    def timed(self, name, count, function):
        asked = self.server.statements() if self.server else 0
        cpu, start = time.process_time(), time.perf_counter()
        function()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        result = {f'{name}_rate': count / seconds, f'{name}_us': 1e6 * cpu / count}
        if self.server:
            result[f'{name}_statements'] = (self.server.statements() - asked) / count
        return result

    def publish(self, producer, count):
        for _ in range(count):
            producer.publish(BODY, exchange=self.queue.exchange, routing_key='bench')

    def run(self, messages):
        alone, each = max(messages // 10, 50), max(messages // GREENLETS, 1)
        result = {}
        with self.connect() as connection:
            self.queue(connection.default_channel).declare()
            producer = connection.Producer(serializer='json')
            self.publish(producer, 20)
            result.update(self.timed('alone', alone, lambda: self.publish(producer, alone)))
            result.update(self.many(producer, each))
        result.update(self.consume(20 + alone + each * GREENLETS))
        result.update(self.wakeups(100 if self.package.__name__ == 'greenmq' else 5))
        if self.server:
            result['idle_statements'] = self.idle()
            share = max(messages // 20, 100)
            for count in (1, CROWD):
                result[f'crowd_{count}_rate'] = self.crowd(count, share * (1 if count == 1 else 2))
            result['crowd_ratio'] = result[f'crowd_{CROWD}_rate'] / result['crowd_1_rate']
            result['declared_p99'] = self.declared()
            result.update(self.server.floor())
        return result

    def crowd(self, count, messages):
        """Messages a second of so many processes that consume one queue, one message at a time."""
        with self.connect() as connection:
            producer = connection.Producer(serializer='json')
            self.queue(connection.default_channel).declare()
            self.many(producer, messages // GREENLETS)
        children = []
        for _ in range(count):  # not all at once: they keep each other from connecting in time
            children.append(self.child('--consume'))
            children[-1].stdout.readline()  # it is connected
        start = time.monotonic()
        for child in children:
            child.stdin.write('go\n')
            child.stdin.flush()
        answers = [child.communicate()[0].split() for child in children]
        total = sum(int(seen) for seen, _ in answers)
        if total < messages // GREENLETS * GREENLETS:
            raise SystemExit(f'{total} of {messages} messages came')
        return total / (max(float(last) for _, last in answers) - start)

    def child(self, does):
        """A process on the same place, which writes a line when it is ready."""
        command = [sys.executable, '-m', 'benchmarks.probes.stores', self.package.__name__, does, self.url,
                   json.dumps(self.options)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def consume_alone(self):
        """As one of a crowd: until nothing comes for a while. Prints how many, and when the last came."""
        seen, last = 0, 0.0

        def on_message(body, message):
            nonlocal seen, last
            message.ack()
            seen, last = seen + 1, time.monotonic()

        with self.connect() as connection:
            connection.connect()
            print('ready', flush=True)
            sys.stdin.readline()
            with connection.Consumer([self.queue], callbacks=[on_message], prefetch_count=1):
                try:
                    while True:
                        connection.drain_events(timeout=3)
                except TimeoutError:
                    print(seen, last)

    def declared(self, seconds=4, pause=0.01):
        """Milliseconds of the slowest of a hundred publishes, while the queue and others are declared by new
        connections, and somebody waits on it."""
        with self.connect() as connection:
            producer = connection.Producer(serializer='json')
            self.queue(connection.default_channel).declare()
            self.publish(producer, 1)
            child = self.child('--declare')
            child.stdout.readline()
            found, until = [], time.monotonic() + seconds
            while time.monotonic() < until:
                start = time.monotonic()
                self.publish(producer, 1)
                found.append(1e3 * (time.monotonic() - start))
                time.sleep(pause)
            child.communicate('end\n')
        return sorted(found)[int(len(found) * 0.99)]

    def declare_on(self):
        """Wait on the queue, and declare it and others, each in a connection of its own."""
        def wait():
            with self.connect() as connection, \
                    connection.Consumer([self.queue], callbacks=[self.on_message]):
                while True:
                    self.pass_time(connection, 5)

        def declare():
            number = 0
            while True:
                number += 1
                with self.connect() as connection:
                    self.queue(connection.default_channel).declare()
                    self.package.Queue(f'other{number}')(connection.default_channel).declare()
                gevent.sleep(0.1)

        gevent.spawn(wait)
        gevent.sleep(0.5)
        gevent.spawn(declare)
        print('ready', flush=True)
        gevent.get_hub().threadpool.apply(sys.stdin.readline)
        os._exit(0)

    def idle(self, seconds=4):
        """Statements a second of a consumer to whom nobody sends, which is what is left after a while."""
        with self.connect() as connection, connection.Consumer([self.queue], callbacks=[self.on_message]):
            self.pass_time(connection, 1.5)
            asked = self.server.statements()
            self.pass_time(connection, seconds)
            return (self.server.statements() - asked) / seconds

    def pass_time(self, connection, seconds):
        try:
            connection.drain_events(timeout=seconds)
        except TimeoutError:
            return

    def many(self, producer, each):
        # kombu's channels are for one greenlet at a time; on these stores its calls do not switch, so that
        # its greenlets would only wait for each other: one publishes what a hundred would.
        if self.package.__name__ == 'kombu':
            return self.timed('many', each * GREENLETS, lambda: self.publish(producer, each * GREENLETS))

        def publish():
            greenlets = [gevent.spawn(self.publish, producer, each) for _ in range(GREENLETS)]
            gevent.joinall(greenlets, raise_error=True)

        return self.timed('many', each * GREENLETS, publish)

    def on_message(self, body, message):
        self.seen += 1
        message.ack()

    def consume(self, expected):
        with self.connect() as connection:
            consumer = connection.Consumer([self.queue], callbacks=[self.on_message], prefetch_count=200)

            def drain():
                with consumer:
                    while self.seen < expected:
                        connection.drain_events(timeout=30)

            return self.timed('consume', expected, drain)

    def on_waking(self, body, message):
        self.woken[body['sent']] = time.perf_counter()
        message.ack()

    def wakeups(self, count):
        published = {}
        with self.connect() as connection, self.connect() as other:
            producer = other.Producer(serializer='json')
            self.queue(other.default_channel).declare()  # kombu's SQL tables have no bindings

            def publish():
                for _ in range(count):
                    gevent.sleep(PAUSE)
                    body = {'sent': time.perf_counter()}
                    producer.publish(body, exchange=self.queue.exchange, routing_key='bench')
                    published[body['sent']] = time.perf_counter()

            with connection.Consumer([self.queue], callbacks=[self.on_waking]):
                feeder = gevent.spawn(publish)
                while len(self.woken) < count:
                    connection.drain_events(timeout=30)
                feeder.join()
        return {
            **percentiles('wake', [at - sent for sent, at in self.woken.items()]),
            **percentiles('after', [at - published[sent] for sent, at in self.woken.items()]),
        }


def main(arguments):
    package, store, messages, *url = arguments
    if store.startswith('--'):
        probe = Probe(package, messages, json.loads(url[0]))
        probe.consume_alone() if store == '--consume' else probe.declare_on()
        return
    if url:
        server = Server(url[0], store)
        try:
            print(json.dumps(Probe(package, *server.place(package, store), server).run(int(messages))))
        finally:
            server.close()
        return
    with tempfile.TemporaryDirectory(prefix='greenmq-bench-') as folder:
        result = Probe(package, *place(store, folder)).run(int(messages))
        print(json.dumps({**result, **floor(folder)}))


if __name__ == '__main__':
    main(sys.argv[1:])
