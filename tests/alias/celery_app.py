"""The example application of Celery in processes of its own: its worker, orders, and a kill between them."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys

from tests.alias.child import environ
from tests.house.source import ROOT
from tests.support.process import end, popen, run, wait_until

EXAMPLE = ROOT / 'examples/celery_app'
CELERY = os.path.join(os.path.dirname(sys.executable), 'celery')
PATH = os.pathsep.join(map(str, (EXAMPLE, ROOT)))

SEND = """
import sys
from tasks import ship
for number in range(int(sys.argv[1])):
    ship.delay(number)
"""


def environment(folder, broker, backend=None, options=None, switch='1'):
    """What the application is told: its broker, and the folder for notes, and for results if nowhere else."""
    return environ(switch, BROKER_URL=broker, BROKER_OPTIONS=json.dumps(options or {}), PYTHONPATH=PATH,
                   RESULT_BACKEND=backend or f'file://{folder}', NOTES=str(folder / 'notes'))


class Worker:
    """`celery worker` as a child."""

    def __init__(self, directory, pool, env, concurrency=4):
        self.log = directory / 'worker.log'
        self.env = env
        with open(self.log, 'wb') as output:
            self.process = popen(
                [CELERY, '-A', 'tasks', 'worker', '-P', pool, '-c', str(concurrency), '-l', 'INFO',
                 '-n', 'w@test', '--without-gossip'],
                env=env, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def text(self):
        return self.log.read_text(errors='replace')

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, self.text()
            return 'w@test ready' in self.text()

        wait_until(ready, 60, 'the worker to be ready')

    def terminate(self):
        """Warm shutdown; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def order(folder, env, count, seconds=90):
    """Send so many orders, which are numbers."""
    run([sys.executable, '-c', SEND, str(count)], seconds, env=env, cwd=folder)


def shipped(directory):
    """How often each order was shipped, by the notes of the workers."""
    path = directory / 'notes'
    return collections.Counter(map(int, path.read_text().split())) if path.exists() else collections.Counter()


@contextlib.contextmanager
def killed_in_the_middle(folder, env, orders):
    """A worker is killed while it ships `orders`, and the block has another: in the end all are shipped."""
    worker = Worker(folder, 'gevent', env)
    try:
        wait_until(lambda: shipped(folder), 60, 'the first order')
        end(worker.process)
        before = len(shipped(folder))
        assert before < orders, 'it was to be killed in the middle'
        worker = Worker(folder, 'gevent', env)
        worker.wait_ready()
        yield
        wait_until(lambda: set(shipped(folder)) == set(range(orders)), 60, f'all orders ({before} before)')
        assert worker.terminate() == 0
    finally:
        end(worker.process)
