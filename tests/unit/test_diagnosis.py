"""`greenmq.doctor()`: what it says of the hub, its loop, the patching, drivers and forks, and the remedy."""
import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support import green

pytestmark = [
    # Each is a process of its own: once is enough.
    pytest.mark.skipif(green.RUNTIME != 'gevent' or green.PATCHED, reason='run in the unpatched process'),
    pytest.mark.slow,
]
DOCTOR = 'import greenmq; print(greenmq.doctor())\n'
PATCH = 'from gevent import monkey; monkey.patch_all({})\n'
EVENTLET = 'import eventlet; eventlet.monkey_patch({})\n'
DRIVER = 'import sys, types; sys.modules["boto3"] = types.ModuleType("boto3")\n'
FORKED = """
import os, sys, greenmq
from greenmq import runtime
runtime.spawn(int, name='first use').join()
pid = runtime.fork_child()
if not pid:
    print(greenmq.doctor(), flush=True)
    os._exit(0)
while runtime.exit_code(pid) is None:
    runtime.sleep(0.01)
"""


def lines(program, **environment):
    """What the doctor says in a process that runs this: subject → 'verdict text'."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program], env={**os.environ, **environment}, text=True,
        capture_output=True, timeout=25, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {line.split()[1]: f'{line.split()[0]} {line[15:]}' for line in done.stdout.splitlines()}


@pytest.mark.parametrize('program, said', [
    (DOCTOR, 'ok nothing is patched; hub: gevent'),
    (PATCH.format('') + DOCTOR, '(before greenmq); hub: gevent'),
    ('import greenmq.runtime\n' + PATCH.format('') + DOCTOR,
     'greenmq works; what was imported before may hold the originals: patch first'),
    (PATCH.format('thread=False') + DOCTOR,
     'not patched: threading. greenmq works; drivers that use them block: patch all'),
    (PATCH.format('socket=False, ssl=False') + DOCTOR, 'not patched: socket, ssl.'),
], ids=['not', 'first', 'late', 'no threads', 'no sockets'])
def test_patching(program, said):
    assert said in lines(program)['patching']


def test_the_loop_of_gevent():
    assert lines(DOCTOR, GEVENT_LOOP='libev-cext')['hub'] == 'ok gevent, loop gevent.libev.corecext.loop'


@pytest.mark.skipif(importlib.util.find_spec('eventlet') is None, reason='eventlet is not installed')
def test_the_hub_of_eventlet():
    said = lines(EVENTLET.format('') + DOCTOR)
    assert said['hub'] == 'ok eventlet, loop eventlet.hubs.epolls.Hub'
    assert said['patching'].startswith('ok eventlet: socket')
    said = lines(EVENTLET.format('') + DOCTOR, EVENTLET_HUB='asyncio')
    assert said['hub'] == "bad eventlet's hub must be epolls, poll or selects, see EVENTLET_HUB: 'asyncio'"
    said = lines('import eventlet\n' + DOCTOR, GREENMQ_RUNTIME='eventlet', EVENTLET_HUB='poll')
    assert said['hub'] == 'ok eventlet, loop eventlet.hubs.poll.Hub'


def test_the_resolver_is_never_the_hubs():
    for resolver in ('thread', 'block'):
        said = lines(DOCTOR, GEVENT_RESOLVER=resolver)['resolver']
        assert said == "ok names are looked up in native threads, not by the hub's resolver"


def test_forks():
    assert lines(DOCTOR)['fork'] == 'ok not a forked child'
    assert lines(FORKED)['fork'] == 'ok forked 1 times since the first use'


def test_drivers():
    assert lines(DOCTOR)['drivers'] == 'ok none is loaded that would block'
    said = lines(DRIVER + DOCTOR)['drivers']
    assert said == 'note boto3 blocks when it is called directly; greenmq calls it in native threads'
    assert lines(PATCH.format('') + DRIVER + DOCTOR)['drivers'] == 'ok none is loaded that would block'
    assert lines(DRIVER + PATCH.format('') + DOCTOR)['drivers'] == said
    said = lines('import sys, types; sys.modules["psycopg2"] = types.ModuleType("psycopg2")\n' + DOCTOR)
    assert said['drivers'] == 'bad psycopg2 waits in C, and stops all greenlets; psycogreen patches it'

