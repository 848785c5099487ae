"""Celery's gevent worker on a store: tasks, remote control, and a worker that is killed."""

import sys

import pytest

from tests.alias.celery_app import Worker, environment, killed_in_the_middle, order
from tests.alias.child import need_the_pth
from tests.stress import FACTOR
from tests.support.process import end, run

pytestmark = [pytest.mark.own_process, pytest.mark.slow, pytest.mark.faults]

ORDERS = 500

PING = """
from tasks import app
print(app.control.inspect(timeout=60, limit=1).ping())
"""


LEASES = {'lease_timeout': 5, 'sweep_interval': 1}

#: Each store by the fixture of its URL, and options with which what a dead worker held comes back soon.
#: Two in every run, all in a soak: each starts Celery four times.
STORES = [('file_url', {}), ('postgresql_url', LEASES)] + ([
    ('filesystem_url', {}), ('sqla_sqlite_url', {'connect_timeout': 60, **LEASES}),
    ('mariadb_url', {'connect_timeout': 60, **LEASES}), ('pgmq_url', LEASES), ('mongodb_url', LEASES),
    ('zookeeper_url', {'session_timeout': 3, 'sweep_interval': 1}), ('pyro_url', {}), ('qpid_url', {}),
    ('artemis_url', {}), ('broker_j_url', {}),
] if FACTOR > 1 else [])


@pytest.mark.green_timeout(400)
@pytest.mark.parametrize(('store', 'options'), STORES, ids=[store for store, _ in STORES])
def test_a_worker_is_killed_and_nothing_is_lost(request, tmp_path, store, options):
    need_the_pth()
    env = environment(tmp_path, request.getfixturevalue(store), options=options)
    order(tmp_path, env, ORDERS, 100)
    with killed_in_the_middle(tmp_path, env, ORDERS):
        assert "'pong'" in run([sys.executable, '-c', PING], 90, env=env, cwd=tmp_path)


@pytest.mark.green_timeout(240)
@pytest.mark.parametrize('switches', [('1', None), (None, '1')], ids=['kombu asks', 'kombu works'])
def test_control_of_workers_in_mongodb_between_kombu_and_greenmq(mongo_peer, tmp_path, switches):
    """Celery's control commands are a fanout, and their answers are not: each library hears the other."""
    need_the_pth()
    kombu, theirs, ours = (
        environment(tmp_path, mongo_peer.url('d'), switch=each) for each in (None, *switches))
    # kombu is deaf to a collection that was empty when it came, see celery/kombu#386
    run([sys.executable, '-c', PING.replace('60', '0.1')], 60, env=kombu, cwd=tmp_path)
    worker = Worker(tmp_path, 'gevent', theirs)
    try:
        worker.wait_ready()
        assert "'pong'" in run([sys.executable, '-c', PING], 90, env=ours, cwd=tmp_path), worker.text()
    finally:
        end(worker.process)
