"""Celery's gevent worker on cloud queues: tasks, and one kill.

No remote control: its replies need bindings that processes share, and these services keep none.
"""

import os
import sys

import pytest

from tests.alias.child import environ, need_the_pth
from tests.alias.test_celery import EXAMPLE, Worker, shipped
from tests.support.process import end, run, wait_until

pytestmark = [pytest.mark.own_process, pytest.mark.slow, pytest.mark.faults]

ORDERS = 200

SEND = f"""
from tasks import ship
for number in range({ORDERS}):
    ship.delay(number)
"""

QUERIES = {
    'fauxqs': '?region=us-east-1&lease_timeout=2&wait_time_seconds=1',
    'azurite': '?lease_timeout=2&polling_interval=0.2',
}


@pytest.mark.green_timeout(240)
@pytest.mark.parametrize('server', list(QUERIES))
def test_a_worker_is_killed_and_nothing_is_lost(server, request, tmp_path):
    need_the_pth()
    url = request.getfixturevalue(server).url(query=QUERIES[server] + '&queue_name_prefix=celery-test-')
    env = environ(BROKER_URL=url, RESULT_BACKEND=f'file://{tmp_path}', NOTES=str(tmp_path / 'notes'),
                  PYTHONPATH=os.pathsep.join([str(EXAMPLE), os.getcwd()]))
    run([sys.executable, '-c', SEND], 90, env=env, cwd=tmp_path)
    worker = Worker(tmp_path, 'gevent', env)
    try:
        wait_until(lambda: shipped(tmp_path), 60, 'the first order')
        end(worker.process)
        before = len(shipped(tmp_path))
        assert before < ORDERS, 'it was to be killed in the middle'
        worker = Worker(tmp_path, 'gevent', env)
        worker.wait_ready()
        wait_until(lambda: set(shipped(tmp_path)) == set(range(ORDERS)), 60, f'all orders ({before} before)')
        assert worker.terminate() == 0
    finally:
        end(worker.process)
