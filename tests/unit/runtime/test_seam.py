"""The choice of the hub library: when it is made, what may make it, and that patching makes no difference."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from greenmq import runtime
from greenmq.exceptions import InvalidArgument

# What a program does with the runtime, over TLS and by name; prints 'sound' if all of it worked.
WORK = """
import _socket, ssl, sys
from greenmq import runtime
from greenmq.runtime.net import Stream
from greenmq.runtime.tls import TLSCodec, TLSOptions
ca, cert, key = sys.argv[1:]
ticks = []
def tick():
    while True:
        ticks.append(1)
        runtime.sleep(0.001)
ticker = runtime.spawn(tick, name='ticker')
listener = _socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(5)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
def serve():
    fd, address = runtime.offload(listener._accept)
    sock = _socket.socket(fileno=fd)
    sock.setblocking(False)
    peer = Stream(sock, 'client')
    peer.start_tls(TLSCodec(context, None, server_side=True), 10)
    peer.write(peer.read(100, 10))
    peer.close()
server = runtime.spawn(serve, name='server')
options = TLSOptions(ca_certs=ca)
stream = runtime.dial('localhost', listener.getsockname()[1], 10, tls=options)
stream.write(b'abc')
assert stream.read(100, 10) == b'abc'
assert stream.read(100, 10) == b''
lock = runtime.Lock()
with lock:
    assert not lock.acquire(0.001)
assert runtime.offload(lambda: 5, own_thread=True) == 5
event = runtime.Event()
runtime.call_later(0.001, event.set)
assert event.wait(10) and server.join(10) and server.error is None
before = len(ticks)
runtime.offload(__import__('gevent.monkey').monkey.get_original('time', 'sleep'), 0.05)
assert len(ticks) - before > 5, 'the hub was blocked'
ticker.kill()
assert ticker.join(10)
print('sound', runtime.patched().when)
"""


def run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, '-c', program, *arguments],
        capture_output=True, text=True, timeout=25, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def last_line(done):
    return done.stderr.strip().splitlines()[-1] if done.stderr else done.stdout.strip()


PATCH = 'from gevent import monkey; monkey.patch_all()\n'
ORDERS = {
    'never': (WORK, 'never'),
    'before import': (PATCH + WORK, 'before'),
    'after import': ('import greenmq.runtime, ssl\n' + PATCH + WORK, 'after'),
    'after first use': ('from greenmq import runtime\nruntime.name()\nimport ssl\n' + PATCH + WORK, 'after'),
    'partly': ('from gevent import monkey; monkey.patch_socket(); monkey.patch_time()\n' + WORK, 'before'),
    'threads only': (
        'from gevent import monkey; monkey.patch_thread(); monkey.patch_queue()\n' + WORK,
        'never',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('order', ORDERS)
def test_works_whatever_was_patched_and_when(order, certificates):
    program, when = ORDERS[order]
    # A late patch of ssl is warned about by gevent: that is about the program's own contexts, not ours.
    done = run(program, str(certificates.ca), str(certificates.server), str(certificates.server_key))
    assert done.stdout.strip() == f'sound {when}', done.stderr


EVENTLET_PATCHED = """
import sys, types
patcher = types.ModuleType("eventlet.patcher")
patcher.is_monkey_patched = lambda name: True
sys.modules["eventlet.patcher"] = patcher
"""


def test_importing_chooses_nothing():
    done = run(
        'import sys, greenmq.runtime as r\n'
        'from greenmq.runtime import *\n'
        'from greenmq.runtime import Lock, Event, spawn, dial, timeout_class, patched\n'
        'patched(); r.use("gevent"); r.fork_epoch(); r.Deadline.after(5)\n'
        'assert not {"gevent", "eventlet"} & set(sys.modules), "too early"\n'
        'Lock().acquire()\n'
        'print("lazy")'
    )
    assert done.stdout.strip() == 'lazy', done.stderr


def test_an_exit_chooses_nothing():
    # Given a hub library that can be imported no more, as when Ctrl-C came in the middle of its import
    done = run('import sys, greenmq.runtime.exits; sys.modules["gevent"] = None; raise SystemExit(3)')
    assert (done.returncode, done.stderr) == (3, '')


@pytest.mark.parametrize(
    ('program', 'environment'),
    [
        ('from greenmq import runtime; runtime.use("eventlet"); runtime.spawn(int, name="t")', {}),
        ('from greenmq import runtime; runtime.name()', {'GREENMQ_RUNTIME': 'eventlet'}),
        (EVENTLET_PATCHED + 'from greenmq import runtime; runtime.name()', {}),
    ],
    ids=['use', 'variable', 'patched'],
)
def test_a_runtime_that_is_not_there_is_named(program, environment):
    try:
        import eventlet  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip('eventlet is installed')
    done = run(program, **environment)
    assert last_line(done).startswith('ImportError: greenmq cannot run on eventlet'), done.stderr


def test_unknown_names_are_refused():
    with pytest.raises(InvalidArgument, match="must be gevent or eventlet: 'asyncio'"):
        runtime.use('asyncio')
    done = run('from greenmq import runtime; runtime.name()', GREENMQ_RUNTIME='asyncio')
    assert 'GREENMQ_RUNTIME must be gevent or eventlet' in last_line(done)


@pytest.mark.parametrize('hub', ['epolls', 'poll', 'selects', 'asyncio'])
def test_hubs_of_eventlet(hub):
    pytest.importorskip('eventlet')
    program = 'from greenmq import runtime; runtime.spawn(print, "it runs", name="t").join()'
    done = run(program, GREENMQ_RUNTIME='eventlet', EVENTLET_HUB=hub)
    if hub == 'asyncio':
        refusal = "eventlet's hub must be epolls, poll or selects, see EVENTLET_HUB: 'asyncio'"
        assert last_line(done).endswith(refusal)
    else:
        assert done.stdout.strip() == 'it runs', done.stderr


def test_use_after_first_use():
    chosen = runtime.name()
    runtime.use(chosen)
    other = 'eventlet' if chosen == 'gevent' else 'gevent'
    late = f"runs on {chosen} already, so runtime.use\\('{other}'\\) comes too late"
    with pytest.raises(RuntimeError, match=late):
        runtime.use(other)


def test_use_beats_the_variable():
    program = 'from greenmq import runtime; runtime.use("gevent"); print(runtime.name())'
    done = run(program, GREENMQ_RUNTIME='eventlet')
    assert done.stdout.strip() == 'gevent', done.stderr


def test_each_thread_has_a_hub_of_its_own():
    def work():
        lock, got = runtime.Lock(), []
        lock.acquire()
        runtime.call_later(0.001, lock.release)
        got.append(lock.acquire(10))
        task = runtime.spawn(got.append, runtime.hub_id(), name='t')
        task.join(10)
        return got

    first, hub = runtime.offload(work, own_thread=True)
    assert first is True and hub is not runtime.hub_id()
    # The hub ends with its thread, with the descriptors that it has; what comes too late is refused.
    while runtime.post(hub, int):
        runtime.sleep(0.001)


def test_wsgi_server():
    server = runtime.wsgi_server(
        ('127.0.0.1', 0), lambda environ, start: (start('200 OK', []), [b'hello'])[1]
    )
    server.start()
    try:
        stream = runtime.dial(*server.address, 10)
        stream.write(b'GET / HTTP/1.0\r\n\r\n')
        answer = b''
        while part := stream.read(65536, 10):
            answer += part
        stream.close()
        assert answer.startswith(b'HTTP/1.1 200 OK') and answer.endswith(b'hello')
    finally:
        server.stop()
