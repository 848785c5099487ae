"""Celery's own worker with greenmq in kombu's place: each pool, and kills of the broker (P24, P25)."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.alias.celery_app import CELERY, PATH, Worker, environment, shipped
from tests.alias.child import environ, need_the_pth
from tests.support.process import end, free_ports, popen, runs, wait_until
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.own_process, pytest.mark.slow, pytest.mark.faults]

ROUNDS = 3 if os.environ.get('GREENMQ_SOAK') else 1


@pytest.fixture(autouse=True, scope='module')
def pth():
    need_the_pth()


class Driver:
    """`celery_driver` as a child that is talked to by lines."""

    def __init__(self, directory, env, scenario):
        self.log = directory / 'driver.log'
        with open(self.log, 'wb') as output:
            self.process = popen([sys.executable, '-m', 'tests.alias.celery_driver', scenario], env=env,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True)
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def told(self, seconds=90):
        line = self._lines.get(timeout=seconds)
        assert line is not None, self.log.read_text(errors='replace')
        return json.loads(line)

    def go_on(self):
        self.process.stdin.write('\n')
        self.process.stdin.flush()


@contextlib.contextmanager
def running(directory, broker, backend, pool, scenario):
    """A worker of this pool, ready, and a client."""
    env = environment(directory, broker, backend)
    worker = Worker(directory, pool, env)
    driver = None
    try:
        worker.wait_ready()
        driver = Driver(directory, env, scenario)
        assert driver.told() == {'kombu': 'Kombu'}
        yield worker, driver
    except BaseException:
        print(worker.text()[-6000:])
        raise
    finally:
        end(worker.process)
        if driver is not None:
            end(driver.process)
            driver.process.stdin.close()
            driver.process.stdout.close()


@pytest.mark.parametrize('pool', ['gevent', 'prefork'])
@pytest.mark.parametrize('broker', ['rabbitmq', 'redis'])
def test_a_worker_lives_through_kills_of_its_broker(request, tmp_path, broker, pool):
    backend = request.getfixturevalue('redis_url') if broker == 'rabbitmq' else None
    if broker == 'rabbitmq':
        server, url = request.getfixturevalue('rabbitmq'), request.getfixturevalue('amqp_url')
    else:
        server, url = request.getfixturevalue('redis_server'), request.getfixturevalue('redis_url')
        backend = url
    # Three kills where the broker is back soonest, and in a soak everywhere.
    rounds = 3 if (broker, pool) == ('redis', 'gevent') else ROUNDS
    with running(tmp_path, url, backend, pool, str(rounds)) as (worker, driver):
        # When the broker is killed under load
        while 'kill' in (told := driver.told()):
            server.restart()
            driver.go_on()
        # Then everything that was taken runs, and whatever ran was sent
        assert not told['failed'] and len(told['sent']) >= 20
        sent = set(told['sent'])
        wait_until(lambda: sent <= set(shipped(tmp_path)), 60, 'all orders to be shipped')
        driver.go_on()
        # And the worker does all that it did before
        told = driver.told()
        assert told['ping'] == [{'ok': 'pong'}]
        assert told['group'] == [number * 2 for number in range(20)]
        assert told['chord'] == sum(told['group'])
        assert told['retry'] == '7 after 2 retries'
        assert told['eta'] == -1 and told['waited'] >= 1.5
        assert told['expired'] == 'REVOKED'
        assert driver.told()['limited'] >= 0.8  # six at five a second: the last waits a second, less a jitter
        assert -2 not in shipped(tmp_path), 'it was revoked'
        # And ends warmly, with nothing under way
        assert worker.terminate() == 0
        log = worker.text()
        assert 'stands in kombu\'s place (API' in log and 'GREENMQ_AS_KOMBU=1' in log
        assert driver.process.wait(20) == 0


def test_delay_in_a_block_of_later_confirms_loses_nothing_in_a_kill(amqp_url, rabbitmq, redis_url, tmp_path):
    with running(tmp_path, amqp_url, redis_url, 'gevent', 'later') as (worker, driver):
        assert driver.told()['kill'] == 0
        rabbitmq.restart()
        driver.go_on()
        assert driver.told() == {'sent': 350, 'failures': 0, 'waiting': 0}
        wait_until(lambda: set(range(350)) <= set(shipped(tmp_path)), 60, 'all orders to be shipped')


@pytest.mark.parametrize('pool', ['threads', 'solo', 'eventlet'])
def test_each_other_pool_with_results_over_the_broker(amqp_url, tmp_path, pool):
    with running(tmp_path, amqp_url, 'rpc://', pool, 'smoke') as (worker, driver):
        told = driver.told()
        assert told == {'results': list(range(5)), 'group': [number * 2 for number in range(10)],
                        'retry': '7 after 1 retries', 'ping': [{'ok': 'pong'}]}
        assert driver.process.wait(20) == 0
        assert worker.terminate() == 0


def test_an_expired_task_is_left_to_the_worker_on_redis(redis_url, tmp_path):
    # Given a task whose second was over before any worker came
    env = environ(BROKER_URL=redis_url, RESULT_BACKEND=redis_url, PYTHONPATH=PATH)
    program = 'from tasks import ship; print(ship.apply_async((1,), expires=0.5).id)'
    identity = subprocess.run([sys.executable, '-c', program], env=env, check=True, capture_output=True,
                              text=True, timeout=30).stdout.strip()
    time.sleep(0.6)
    # Then it is not lost in silence: the worker says that it was revoked
    with running(tmp_path, redis_url, redis_url, 'solo', 'smoke'):
        program = f'''
from celery.exceptions import TaskRevokedError
from tasks import app
try:
    app.AsyncResult({identity!r}).get(timeout=10)
except TaskRevokedError as exc:
    print(exc)
'''
        out = subprocess.run([sys.executable, '-c', program], env=env, check=True, capture_output=True,
                             text=True, timeout=30).stdout
    assert out == 'expired\n'


def test_detach_and_multi_keep_the_switch(redis_url, tmp_path):
    env = environ(BROKER_URL=redis_url, RESULT_BACKEND=redis_url, PYTHONPATH=PATH)
    for name, command in (('detach', ['worker', '--detach', '-n', 'detach@test']),
                          ('multi', ['multi', 'start', 'multi', '--hostname=test'])):
        files = [f'--pidfile={tmp_path}/{name}.pid', f'--logfile={tmp_path}/{name}.log']
        subprocess.run([CELERY, '-A', 'tasks', *command, '-P', 'solo', '-l', 'INFO', *files], env=env,
                       check=True, cwd=tmp_path, timeout=30, stdout=subprocess.DEVNULL)
        log, pid = tmp_path / f'{name}.log', tmp_path / f'{name}.pid'
        try:
            wait_until(lambda log=log: log.exists() and 'ready' in log.read_text(), 30, f'{name} to be ready')
            assert 'stands in kombu\'s place' in log.read_text()
        finally:
            number = int(pid.read_text())
            os.kill(number, signal.SIGTERM)
            wait_until(lambda number=number: not runs(number), 20, f'{name} to end')


def test_celerys_pytest_plugin(tmp_path):
    (tmp_path / 'test_theirs.py').write_text('''
import kombu

pytest_plugins = ('celery.contrib.pytest',)

def test_it(celery_app, celery_worker):
    @celery_app.task
    def double(x):
        return 2 * x
    celery_worker.reload()
    assert double.delay(4).get(timeout=10) == 8
    assert type(kombu).__name__ == 'Kombu'
''')
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', str(tmp_path)], cwd=tmp_path,
        env=environ(), capture_output=True, text=True, timeout=60)
    assert '1 passed' in done.stdout, done.stdout + done.stderr


AWAY = '''
import sys, time
from celery import Celery
import kombu.connection

def seconds(app):
    began = time.monotonic()
    try:
        app.send_task('x')
    except app.connection().connection_errors + (kombu.exceptions.OperationalError,):
        return time.monotonic() - began
    return None

apps = [Celery(str(n), broker=url, backend='disabled://', set_as_current=False)
        for n, url in enumerate(sys.argv[1:])]
for app in apps[2:]:
    app.send_task('x')
print('sent', flush=True)
sys.stdin.readline()
for app in apps[:2]:
    seconds(app)  # the first one of a process imports what it needs
for app in apps:
    print(type(kombu).__name__, seconds(app), flush=True)
'''


def test_send_task_gives_up_as_soon_as_with_kombu_when_the_broker_is_away(rabbitmq, redis_server, amqp_vhost):
    def seconds(switch):
        """How long a try took: at brokers that were never there, and at those that died after use."""
        with Proxy(rabbitmq.port) as amqp, Proxy(redis_server.port) as redis:
            nobody, = free_ports(1)
            urls = [f'amqp://127.0.0.1:{nobody}//', f'redis://127.0.0.1:{nobody}/0',
                    f'amqp://127.0.0.1:{amqp.port}/{amqp_vhost}', f'redis://127.0.0.1:{redis.port}/0']
            child = popen([sys.executable, '-c', AWAY, *urls], env=environ(switch=switch), text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                assert child.stdout.readline() == 'sent\n'
                amqp.close(), redis.close()
                lines = [line.split() for line in child.communicate('\n', timeout=90)[0].splitlines()]
            finally:
                end(child)
        assert [name for name, *_ in lines] == [{'0': 'module', '1': 'Kombu'}[switch]] * 4
        return [float(each) for _, each in lines]

    theirs, ours = seconds('0'), seconds('1')
    # Celery's policy is about 0.6 s; 1.5 is what a busy machine may add, and half of what a pause of the
    # recovery would.
    assert all(one < other + 1.5 for one, other in zip(ours, theirs, strict=True)), (ours, theirs)
