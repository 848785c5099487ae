"""Fork: the child starts clean and says no word on the parent's sockets; the parent notices nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import green

pytestmark = pytest.mark.own_process

# Each program forks, and prints lines of the child (through a pipe) and then of the parent.
PROLOGUE = """
import _socket, gc, os, posix, sys
from greenmq import runtime
from greenmq.exceptions import ConnectionClosed, Forked
from greenmq.runtime.net import Stream
from greenmq.runtime.seam import library
from tests.support import green

def pair():
    streams = []
    for sock in _socket.socketpair():
        sock.setblocking(False)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 8192)
        streams.append(Stream(sock, 'peer'))
    return streams

def settle():
    for _ in range(5):
        runtime.sleep(0)

def fork(child):
    # Runs child() in a child; gives what it printed with say(), after its end. (posix.close: gevent's own
    # os.close leaves the closing to the next round of the hub, which may be long in coming.)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            posix.close(read)
            child(lambda *words: os.write(write, (' '.join(map(str, words)) + '\\n').encode()))
        except BaseException as exc:
            os.write(write, repr(exc).encode())
        finally:
            os._exit(0)
    posix.close(write)
    lines = runtime.offload(lambda: open(read).read().splitlines(), own_thread=True, deadline=15)
    runtime.offload(os.waitpid if not runtime.patched().os else real_waitpid, pid, 0, own_thread=True)
    return lines

def real_waitpid(pid, options):
    try:
        return library.original('os', 'waitpid')(pid, options)
    except ChildProcessError:
        return pid, 0  # the hub's watcher of children was faster
"""


@pytest.fixture(params=['', green.PATCH_ALL], ids=['unpatched', 'patched'])
def run(request):
    def run(program):
        done = subprocess.run(
            [sys.executable, '-W', 'ignore::DeprecationWarning', *green.QUIET, '-c',
             request.param + PROLOGUE + program],
            capture_output=True, text=True, timeout=25, check=False,
        )  # fmt: skip
        assert done.returncode == 0 and done.stderr == '', done.stderr
        return done.stdout.splitlines()

    return run


def test_every_wait_of_a_copied_greenlet_raises_forked(run):
    lines = run("""
log = []
def waiting(name, call):
    try:
        call()
        log.append(name + ' returned')
    except Forked:
        log.append(name)
ours, theirs = pair()
full, _other = pair()
lock = runtime.Lock()
lock.acquire()
calls = {
    'waiter': runtime.Waiter().wait, 'handoff': runtime.Handoff().wait, 'future': runtime.Future().result,
    'lock': lock.acquire, 'sleep': lambda: runtime.sleep(20), 'read':
    ours.read, 'write': lambda: full.write(bytes(10**6)), 'thread': lambda: runtime.offload(getattr, None,
    'x', None) or runtime.offload(__import__('_queue').SimpleQueue().get, own_thread=True),
}
# Greenlets of the program, not tasks of ours.
glets = [green.spawn(waiting, name, call) for name, call in calls.items()]
runtime.sleep(0.05)
def child(say):
    green.joinall(glets, timeout=10)
    say(*sorted(log))
    say(runtime.fork_epoch())
print(*fork(child), sep='\\n')
print(log, runtime.fork_epoch(), [glet.ready() for glet in glets].count(True))
""")
    assert lines == ['future handoff lock read sleep thread waiter write', '1', '[] 0 0']


def test_tasks_end_but_the_one_that_forked(run):
    lines = run("""
ends, finals = [], []
def work():
    try:
        runtime.Event().wait()  # the library's own: nothing of ours could wake it
    finally:
        finals.append(1)
task = runtime.spawn(work, name='t', on_exit=lambda *end: ends.append(end))
timer = runtime.call_later(0.01, finals.append, 'timer')
def forker():
    def child(say):
        runtime.sleep(0.02)
        say(task.done, ends, finals)
        me = runtime.spawn(int, name='new')
        say(me.join(5), runtime.offload(int, '7'))
    finals.clear()
    runtime.run_soon(finals.append, 'soon')
    lines.extend(fork(child))
lines = []
settle()
assert runtime.spawn(forker, name='forker').join(20)
print(*lines, sep='\\n')
print(task.done, ends, 'timer' in finals)
""")
    # The owner is told by after_fork; queued callbacks and timers are the parent's.
    assert lines == ['True [] [1]', 'True 7', 'False [] True']


def test_the_main_greenlet_does_not_end_the_child_of_another(run):
    lines = run(
        """
lines, caught = [], []
gone = runtime.Event()
def forker():
    def child(say):
        runtime.sleep(0.02)  # longer than main's deadline
        say('work of the child', *caught)
    lines.extend(fork(child))
    gone.set()
glet = green.spawn(forker)
try:
    runtime.Waiter().wait(0.01)
except runtime_error as exc:
    caught.append(type(exc).__name__)
gone.wait()
print(*lines)
""".replace('runtime_error', '(Forked, TimeoutError)')
    )
    assert lines == ['work of the child']


def test_the_main_greenlet_is_told_when_nothing_else_is_left_to_run(run):
    lines = run(
        """
read, write = os.pipe()
glet = green.spawn(lambda: os.fork())  # returns into the program, twice
waiter = runtime.Waiter()
parent = os.getpid()
def wake_in_the_parent():
    if os.getpid() == parent:
        runtime.offload(lambda: os.read(read, 100))  # the child's word
        waiter.wake()
settle()
keeper = green.spawn(wake_in_the_parent)
try:
    waiter.wait()
    print('parent goes on')
except Forked:
    os.write(write, b'forked')
    os._exit(0)
""".replace('settle()\nkeeper', 'keeper')
    )
    assert lines == ['parent goes on']


def test_no_byte_and_no_alert_from_the_child(run, certificates):
    lines = run(f"""
import ssl
from greenmq.runtime.tls import TLSCodec, TLSOptions
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({str(certificates.server)!r}, {str(certificates.server_key)!r})
ours, theirs = pair()
task = runtime.spawn(theirs.start_tls, TLSCodec(context, None, server_side=True), 10, name='t')
ours.start_tls(TLSCodec(TLSOptions(ca_certs={str(certificates.ca)!r}).context(), 'localhost'), 10)
fd = ours.fileno()
def child(say):
    say(ours.closed, ours.fileno())
    ours.close()
    for call in (ours.read, lambda: ours.write(b'x')):
        try:
            call()
        except Forked:
            say('forked')
    try:
        os.fstat(fd)
    except OSError:
        say('descriptor closed')
print(*fork(child), sep='\\n')
ours.write(b'still mine')
print(theirs.read(100, 5))
theirs.write(b'and back')
print(ours.read(100, 5))
""")
    assert lines == ['True -1', 'forked', 'forked', 'descriptor closed', "b'still mine'", "b'and back'"]


def test_fork_while_another_greenlet_is_in_send(run):
    lines = run("""
data = bytes(range(251)) * 8192
ours, theirs = pair()
sender = runtime.spawn(ours.write, data, name='sender')
settle()
assert not sender.done
def child(say):
    settle()
    say(sender.done)
for _ in range(3):
    print(*fork(child))
got = bytearray()
while len(got) < len(data):
    got += theirs.read(65536, 5)
print(bytes(got) == data, sender.join(5), sender.error)
""")
    assert lines == ['True'] * 3 + ['True True None']


def test_a_lock_that_the_parent_had_handed_over_is_free_in_the_child(run):
    lines = run("""
lock = runtime.Lock()
lock.acquire()
def take():
    try:
        with lock:
            got.append('in')
    except Forked:
        got.append('forked')
got = []
glet = green.spawn(take)
settle()
lock.release()  # it is the other's now, who has not run yet
def child(say):
    say(lock.acquire(5), *got)
print(*fork(child), sep='\\n')
glet.join(5)
print(lock.locked(), *got)
""")
    assert lines == ['True forked', 'False in']


def test_after_fork_hooks(run):
    lines = run("""
log = []
class Owner:
    def __init__(self, name):
        self.name = name
    def reset(self):
        log.append(self.name)
def plain():
    log.append('plain')
def broken():
    raise ValueError('broken hook')
kept, dropped = Owner('kept'), Owner('dropped')
import logging
logging.getLogger('greenmq.runtime').addHandler(logging.NullHandler())
logging.getLogger('greenmq.runtime').propagate = False
for callback in (kept.reset, dropped.reset, broken, plain):
    runtime.after_fork(callback)
del dropped
gc.collect()
def child(say):
    say(*log, runtime.fork_epoch())
    say(*fork(lambda say: say(*log, runtime.fork_epoch())))
print(*fork(child), sep='\\n')
print(log, runtime.fork_epoch())
""")
    assert lines == ['kept plain 1', 'kept plain kept plain 2', '[] 0']


def test_child_dials_while_the_parent_does(run):
    lines = run("""
listener = _socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(8)
port = listener.getsockname()[1]
dials = [runtime.spawn(lambda: runtime.dial('localhost', port, 10).close(), name='t') for _ in range(3)]
settle()
def child(say):
    say(runtime.dial('localhost', port, 10).peername[1] == port)
print(*fork(child))
print([task.join(10) and task.error for task in dials])
""")
    assert lines == ['True', '[None, None, None]']


# The resolver of libc with one lock inside: `held` seconds of each look-up with it, `net` seconds without.
RESOLVER = """
import time
from greenmq.runtime import lookup
def resolver(held, net):
    lock, pause = library.original('_thread', 'allocate_lock')(), library.original('time', 'sleep')
    def getaddrinfo(host, port, *rest):
        with lock:
            pause(held)
        pause(net)
        return _socket.getaddrinfo('127.0.0.1', port, *rest)
    lookup.getaddrinfo = getaddrinfo
    return lock
listener = _socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(16)
port = listener.getsockname()[1]
def dials(count):
    names = [f'host{n}' for n in range(count)]
    return [runtime.spawn(lambda name=name: runtime.dial(name, port, 20).close(), name='t') for name in names]
def child(say):
    say(runtime.dial('host', port, 10).peername[1] == port)
"""


def test_a_fork_waits_for_the_look_ups_that_hold_a_lock_of_libc(run):
    lines = run(RESOLVER + """
lock = resolver(0.01, 0)
tasks = dials(4)
while not lock.locked():
    runtime.sleep(0.0001)
print(*fork(child))
print([task.join(10) and task.error for task in tasks])
""")
    assert lines == ['True', '[None, None, None, None]']


def test_a_fork_does_not_wait_for_a_look_up_that_waits_for_the_network(run):
    lines = run(RESOLVER + """
resolver(0, 4)
tasks = dials(2)
while len(lookup.inside_libc) < 2:
    runtime.sleep(0.0001)
# The waits are counted, not the seconds: after the fork both are still inside.
pid = os.fork()
if pid == 0:
    os._exit(0)
print(len(lookup.inside_libc))
runtime.offload(os.waitpid if not runtime.patched().os else real_waitpid, pid, 0, own_thread=True)
print(*fork(child))
print([task.join(10) and task.error for task in tasks])
""")
    assert lines == ['2', 'True', '[None, None]']


def test_fork_from_another_thread(run):
    lines = run("""
log = []
def waiting():
    try:
        runtime.Waiter().wait()
    except BaseException as exc:
        log.append(exc)
glet = green.spawn(waiting)
ours, theirs = pair()
settle()
def in_thread():
    read, write = os.pipe()
    pid = library.original('os', 'fork')()
    if pid == 0:
        try:
            runtime.sleep(0.01)
            done = runtime.spawn(int, name='t').join(5)
            os.write(write, f'{done} {ours.closed} {log}'.encode())
        finally:
            os._exit(0)
    posix.close(write)
    with open(read) as file:
        return file.read()
print(runtime.offload(in_thread, own_thread=True))
ours.write(b'abc')
print(theirs.read(10, 5), glet.dead)
glet.kill()
""")
    assert lines == ['True True []', "b'abc' False"]


@pytest.mark.skipif(green.RUNTIME != 'gevent', reason='only gevent lets a program destroy its hub')
def test_what_a_thread_left_whose_loop_was_destroyed_keeps_nobody_from_being_told(run):
    lines = run("""
log, kept = [], []
def waiting(name, call):
    try:
        call()
    except Forked:
        log.append(name)
def in_thread():
    mine, other = pair()
    glets = [green.spawn(waiting, 'theirs', call) for call in (mine.read, runtime.Waiter().wait)]
    kept.extend([mine, other, library.get_hub(), *glets])
    settle()
    library.get_hub().destroy(True)  # as gevent advises
from greenmq.runtime.offload import start_thread
start_thread(in_thread)
while len(kept) < 5:
    runtime.sleep(0.01)
runtime.sleep(0.1)
ours, theirs = pair()
glets = [green.spawn(waiting, name, call) for name, call in
         (('read', ours.read), ('waiter', runtime.Waiter().wait))]
settle()
def child(say):
    green.joinall(glets, timeout=10)
    say(*sorted(log), ours.closed, kept[0].closed)
print(*fork(child), sep='\\n')
""")
    assert lines == ['read waiter True True']


def test_a_wait_of_a_thread_that_was_not_forked_can_be_ended_and_ends_nobody(run):
    lines = run("""
waiters = []
def in_thread():
    waiters.append(runtime.Waiter())
    green.spawn(waiters[0].wait, 20)
    waiters.append(True)
    runtime.sleep(20)
from greenmq.runtime.offload import start_thread
start_thread(in_thread)
while len(waiters) < 2 or waiters[0].task is None:
    runtime.sleep(0.01)
print(*fork(lambda say: say(waiters[0].wake(), waiters[0].fail(OSError()))), sep='\\n')
""")
    assert lines == ['False False']


def test_a_child_that_only_execs_is_left_alone(run):
    lines = run("""
ours, theirs = pair()
task = runtime.spawn(ours.read, name='t')
settle()
print(green.subprocess.check_output([sys.executable, '-c', 'print("exec")']).decode().strip())
theirs.write(b'abc')
print(task.join(5), task.error)
""")
    assert lines == ['exec', 'True None']
