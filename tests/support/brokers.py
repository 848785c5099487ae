"""Every broker that the suites run on, one row each: contract, demo, kill tests and CI read this table.

A new broker is one row, and a fixture in `tests.support.servers` if it has a server.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import tests.support.fakes  # noqa: F401 - its transports get their names


class Row(NamedTuple):
    """One broker.

    Attributes:
        name: how tests call it: the id of a parametrized test.
        url: where it is; or the name of the fixture that starts it and gives the URL.
        server: the fixture of the server that kill tests stop and start; None if there is none.
        packages: Debian packages of it, for `.ci/servers`.
        lane: when it runs: 'quick' in every run, 'server' where its packages are.
        mark: the mark of its tests.
        brisk: transport options with which what a dead process held comes back within a second or two, for
            kill tests; None if no other process can share the broker.
    """

    name: str
    url: str
    server: str | None = None
    packages: tuple[str, ...] = ()
    lane: str = 'quick'
    mark: str | None = None
    brisk: dict | None = None

    @property
    def is_fixture(self):
        return '://' not in self.url


REDIS_BRISK = {'health_check_interval': 0.3, 'sweep_interval': 0.5, 'lease_timeout': 1}
PGMQ_BRISK = {'lease_timeout': 1}
SQL_BRISK = {'sweep_interval': 0.3, 'lease_timeout': 1}

#: A thread and a commit for each message take minutes: for `make soak`.
SOAK = (
    [Row('sqla_sqlite', 'sqla_sqlite_url', brisk=SQL_BRISK)] if os.environ.get('GREENMQ_SOAK') else []
)

#: A MongoDB of somebody else's, beside the server that the suite starts.
GIVEN = [Row('mongodb_given', 'mongodb_given_url')] if os.environ.get('GREENMQ_MONGODB_URL') else []
#: Of a tree of Debian 13, where somebody has made one.
OF_A_TREE = [Row('rabbitmq4', 'rabbitmq4_url', brisk={})] if os.environ.get('GREENMQ_DEBIAN13') else []

TABLE = (
    Row('memory', 'memory://localhost/contract'),
    Row('fake-lease', 'fake-lease://localhost/contract'),
    Row('fake-look', 'fake-look://localhost/contract'),
    Row('fake-push', 'fake-push://localhost/contract'),
    Row('file', 'file_url', brisk={'sweep_interval': 0.3}),
    Row('filesystem', 'filesystem_url', brisk={'sweep_interval': 0.3}),
    *SOAK,
    *GIVEN,
    Row('postgresql', 'postgresql_url', 'postgresql', ('postgresql',), 'server', 'postgresql', SQL_BRISK),
    Row('pgmq', 'pgmq_url', 'postgresql', ('postgresql',), 'server', 'postgresql', PGMQ_BRISK),
    Row('mariadb', 'mariadb_url', 'mariadb', ('mariadb-client-core', 'mariadb-server-core'), 'server',
        'mariadb', SQL_BRISK),
    Row('amqp', 'amqp_url', 'rabbitmq', ('rabbitmq-server',), 'server', 'rabbitmq', {}),
    Row('qpid', 'qpid_url', 'rabbitmq', ('rabbitmq-server',), 'server', 'rabbitmq', {}),
    *OF_A_TREE,
    Row('artemis', 'artemis_url', 'artemis', ('default-jre-headless',), 'server', 'amqp10', {}),
    Row('broker_j', 'broker_j_url', 'broker_j', ('default-jre-headless',), 'server', 'amqp10', {}),
    Row('redis', 'redis_url', 'redis_server', ('redis-server',), 'server', 'redis', REDIS_BRISK),
    Row('sqs', 'sqs_url', 'fauxqs', (), 'server', 'sqs', {'lease_timeout': 1, 'wait_time_seconds': 1}),
    Row('mongodb', 'mongodb_url', 'ferretdb', (), 'server', 'mongodb',
        {'lease_timeout': 1, 'sweep_interval': 0.5}),
    Row('pyro', 'pyro_url', 'pyro_broker', brisk={}),
    Row('zookeeper', 'zookeeper_url', 'zookeeper', ('default-jre-headless', 'zookeeper'), 'server',
        'zookeeper', {'session_timeout': 2, 'sweep_interval': 1}),
    Row('azure', 'azure_url', 'azurite', (), 'server', 'azure', {'lease_timeout': 1}),
    Row('servicebus', 'servicebus_url', 'servicebus', (), 'server', 'servicebus',
        {'peek_lock_seconds': 1, 'max_delivery_count': 1000}),
    Row('slmq', 'slmq_url', 'slmq', (), 'server', 'slmq', {'visibility_timeout': 1}),
    Row('redis_tls', 'redis_tls_url', None, ('redis-server',), 'server', 'redis'),
    Row('redis_unix', 'redis_unix_url', None, ('redis-server',), 'server', 'redis'),
    Row('redis_untold', 'redis_untold_url', None, ('redis-server',), 'server', 'redis'),
    Row('sentinel', 'sentinel_url', None, ('redis-server',), 'server', 'redis'),
    Row('redis_cluster', 'redis_cluster_url', None, ('redis-server',), 'server', 'redis'),
    Row('redis_six', 'redis_six_url', None, ('redis-server',), 'server', 'redis'),
)

#: One of each mechanism. The suite is run whole on gevent, unpatched; patched and on eventlet, others than
#: these are asked the core of the contract alone: what waits, is woken and is killed.
IN_FULL = ('memory', 'fake-lease', 'fake-push', 'amqp', 'redis')


def row(name):
    return next(row for row in TABLE if row.name == name)
