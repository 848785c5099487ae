"""A native thread may add bytes between two writes, and only there."""

from __future__ import annotations

import socket

import gevent.monkey
import pytest

from greenmq import runtime
from greenmq.runtime.offload import start_thread

original_sleep = gevent.monkey.get_original('time', 'sleep')
MARK = b'\xff' * 8


@pytest.fixture
def pair():
    """A shared stream, and the other end as a blocking socket of the standard library's C class."""
    listener = gevent.monkey.get_original('socket', 'socket')()
    listener.bind(('127.0.0.1', 0))
    listener.listen(1)
    stream = runtime.SharedStream(runtime.dial('127.0.0.1', listener.getsockname()[1], 5))
    other, _ = listener.accept()
    other.settimeout(10)
    yield stream, other
    stream.close()
    other.close()
    listener.close()


def receive(other, size):
    data = b''
    while len(data) < size:
        data += other.recv(size - len(data))
    return data


def available(other):
    """What has arrived; the hub does not run meanwhile."""
    data = b''
    other.settimeout(0.01)
    try:
        while True:
            data += other.recv(1 << 16)
    except TimeoutError:
        return data
    finally:
        other.settimeout(10)


def stall_while(work):
    """Run `work` in a native thread while this one, and so the hub, does not run; returns what it
    returned."""
    done = []
    start_thread(lambda: done.append(work()))
    while not done:
        original_sleep(0.01)
    return done[0]


def test_a_beat_leaves_while_the_hub_does_not_run(pair):
    stream, other = pair
    assert stall_while(lambda: stream.beat(MARK)) is True
    assert receive(other, 8) == MARK


def test_a_beat_never_stands_inside_a_write(pair):
    stream, other = pair
    stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = bytes(range(1, 251)) * 8000
    # Given: a write of which the kernel has taken a part
    assert stream.write_some(body, 5) == len(body)
    assert stream.unsent
    # When: a thread wants to beat, first while nothing moves, then while the other side reads
    assert stall_while(lambda: stream.beat(MARK)) is False
    seen = available(other)
    while not stall_while(lambda: stream.beat(MARK)):
        seen += available(other)
    while len(seen) < len(body) + len(MARK):
        seen += available(other)
        runtime.sleep(0.001)
    # Then: the mark stands behind the whole body
    assert seen == body + MARK


def test_a_closed_stream_takes_no_beat(pair):
    stream, _ = pair
    stream.close()
    assert stall_while(lambda: stream.beat(MARK)) is False


def test_reads_and_writes_go_on_as_on_any_stream(pair):
    stream, other = pair
    stream.write(b'question', 5)
    assert receive(other, 8) == b'question'
    other.sendall(b'answer')
    assert stream.read(100, 5) == b'answer'
    other.close()
    assert stream.read(100, 5) == b''
