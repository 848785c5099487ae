"""Workers that the tests start as processes. What they do is written to the file in RECORD, a line each."""
import json
import os
import time

from greenmq import Queue, runtime
from greenmq.mixins import ConsumerMixin

NOT_A_WORKER = 42

if 'FIRST_STAYS' in os.environ:  # of several processes, the first to import this gets no further
    try:
        os.close(os.open(os.environ['FIRST_STAYS'], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        print('not the first', flush=True)
    else:
        time.sleep(60)


def note(*words):
    # One write each: lines of several processes do not mix.
    descriptor = os.open(os.environ['RECORD'], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (' '.join(map(str, words)) + '\n').encode())
    os.close(descriptor)


class Recorder(ConsumerMixin):
    """A body is {'id': …, 'seconds': …}; 'spin' computes for that time, 'exit' raises SystemExit."""

    jobs = Queue(os.environ.get('QUEUE', 'jobs'))

    def __init__(self, connection):
        self.connection = connection

    def get_consumers(self, Consumer, channel):
        return [Consumer([self.jobs], callbacks=[self.on_job])]

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        note('ready', os.getpid())

    def on_job(self, body, message):
        note('begin', body['id'])
        if 'exit' in body:
            raise SystemExit('asked for')
        if 'spin' in body:
            until = time.monotonic() + body['spin']
            while time.monotonic() < until:
                pass
        runtime.sleep(body.get('seconds', 0))
        message.ack()
        note('end', body['id'])


class Done(Recorder):
    """Is done as soon as it is ready."""

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        super().on_consume_ready(connection, channel, consumers, **kwargs)
        self.should_stop = True


class SelfFed(Recorder):
    """On memory://, which no other process sees: brings the messages in JOBS, and notes what is left."""

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        with connection.clone() as other:
            for body in json.loads(os.environ['JOBS']):
                other.Producer().publish(body, routing_key=self.jobs.name)
        super().on_consume_ready(connection, channel, consumers, **kwargs)

    def run(self, *args, **kwargs):
        # In memory the broker goes with its last connection.
        with self.connection.clone() as other:
            other.connect()
            super().run(*args, **kwargs)
            channel = other.channel()
            while (raw := channel.basic_get(self.jobs.name, no_ack=True)) is not None:
                message = channel.message_to_python(raw)
                note('left', message.payload['id'], bool(message.delivery_info['redelivered']))


class Crashing(Recorder):
    """Ends at its start."""

    def __init__(self, connection):
        super().__init__(connection)
        note('start', os.getpid())
        raise RuntimeError('no way')
