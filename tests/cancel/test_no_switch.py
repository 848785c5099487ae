"""What promises not to switch does not, and what is dropped in a bad moment asks for nothing (P8)."""
from __future__ import annotations

import subprocess
import sys

import pytest

from greenmq import Connection, Consumer, Queue, pools
from tests.cancel.world import World
from tests.support import green
from tests.support.switches import assert_no_switch


@pytest.fixture
def world():
    world = World('plain')
    world.connection.connect()
    world.queue(world.connection.default_channel).declare()
    yield world
    world.close()


def test_publishing_in_memory(world):
    producer = world.connection.Producer(serializer='json')
    with assert_no_switch():
        producer.publish({'id': 1}, exchange=world.exchange, routing_key='cancel')
        producer.publish({'id': 2}, exchange=world.exchange, routing_key='cancel', declare=[world.queue],
                         retry=True, mandatory=True, timeout=5)


def test_taking_what_is_there(world):
    world.publish(1, 2, 3)
    with world.consumer(), assert_no_switch():
        world.connection.drain_events(timeout=1)
        world.connection.drain_events()
    assert world.acked == [1, 2]


@pytest.mark.parametrize('kind', ['connections', 'producers'])
def test_a_pool_with_something_free(world, kind):
    pool = getattr(pools, kind)[world.connection]
    pool.acquire(block=True).release()
    with assert_no_switch():
        pool.acquire(block=True).release()


def made(world):
    """One of each public object that holds something."""
    channel = world.connection.channel()
    consumer = Consumer(channel, [world.queue], callbacks=[world.on_message])
    consumer.consume()
    pool = world.connection.Pool(limit=2)
    channels = world.connection.ChannelPool(limit=2)
    held = [pool.acquire(), channels.acquire(), pools.producers[world.connection].acquire()]
    return [channel, consumer, pool, channels, held, Connection('memory://localhost/dropped').connect(),
            world.connection.Producer(), Queue('dropped')(channel)]


def test_dropping_the_last_reference_in_a_hub_callback(world, hub_errors):
    objects = made(world)
    done = green.Event()

    def drop():
        objects.clear()
        world.connection = None
        done.set()

    green.run_callback(drop)
    assert done.wait(5)
    green.idle()
    assert not hub_errors
    world.connection = world.connect()


AT_EXIT = '''
import gc, sys
gc.disable()
from greenmq import Connection, Consumer, Exchange, Queue, pools
connection = Connection('memory://localhost/exit').connect()
queue = Queue('exit', Exchange('exit'), routing_key='exit')
channel = connection.channel()
consumer = Consumer(channel, [queue], callbacks=[print])
consumer.consume()
connection.Producer().publish({'a': 1}, exchange='exit', routing_key='exit')
held = [connection.Pool(2).acquire(), connection.ChannelPool(2).acquire()]
producer = pools.producers[connection].acquire()
ring = [connection]
ring.append(ring)
print('alive')
'''


@pytest.mark.parametrize('patched', [False, True])
def test_the_end_of_the_interpreter_is_quiet(patched):
    command = [sys.executable, '-W', 'error', *green.QUIET, '-X', 'dev', '-c',
               (green.PATCH_ALL if patched else '') + AT_EXIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, 'alive\n', '')
