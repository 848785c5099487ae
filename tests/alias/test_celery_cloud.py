"""Celery's gevent worker on cloud queues: tasks, and one kill.

No remote control: its replies need bindings that processes share, and these services keep none.
"""

import pytest

from tests.alias.celery_app import environment, killed_in_the_middle, order
from tests.alias.child import need_the_pth

pytestmark = [pytest.mark.own_process, pytest.mark.slow, pytest.mark.faults]

ORDERS = 200

QUERIES = {
    'fauxqs': '?region=us-east-1&lease_timeout=2&wait_time_seconds=1',
    'azurite': '?lease_timeout=2&polling_interval=0.2',
}


@pytest.mark.green_timeout(240)
@pytest.mark.parametrize('server', list(QUERIES))
def test_a_worker_is_killed_and_nothing_is_lost(server, request, tmp_path):
    need_the_pth()
    url = request.getfixturevalue(server).url(query=QUERIES[server] + '&queue_name_prefix=celery-test-')
    env = environment(tmp_path, url)
    order(tmp_path, env, ORDERS)
    with killed_in_the_middle(tmp_path, env, ORDERS):
        pass
