"""Fixtures: one server of each kind a test run, a virtual host or an empty database a test."""

from __future__ import annotations

import os
import uuid

import pytest

from tests.support import programs
from tests.support.amqp10_servers import Artemis, BrokerJ
from tests.support.azurite import Azurite
from tests.support.certificates import Certificates
from tests.support.mariadb import MariaDB
from tests.support.mongodb import FerretDB, Peer
from tests.support.postgresql import PostgreSQL
from tests.support.process import RUNNING
from tests.support.pyro import PyroBroker
from tests.support.rabbitmq import RabbitMQ
from tests.support.rabbitmq_cluster import RabbitCluster
from tests.support.redis_server import Redis
from tests.support.redis_topology import Cluster, Sentinels
from tests.support.servicebus import ServiceBus
from tests.support.slmq import SLMQ
from tests.support.sqs_servers import Fauxqs, Moto
from tests.support.zookeeper import ZooKeeper


@pytest.fixture(scope='session')
def certificates(tmp_path_factory):
    """A CA, a server's and a client's certificate: see tests.support.certificates."""
    return Certificates(tmp_path_factory.mktemp('certificates'))


@pytest.fixture(scope='session')
def rabbitmq(certificates):
    """The RabbitMQ node of this run. A test that kills or pauses it starts or resumes it again."""
    with RabbitMQ(certificates) as server:
        yield server


@pytest.fixture
def amqp_vhost(rabbitmq):
    """The name of a virtual host that is this test's own."""
    name = f'test-{uuid.uuid4().hex[:12]}'
    rabbitmq.create_vhost(name)
    yield name
    rabbitmq.delete_vhost(name)


@pytest.fixture
def amqp_url(rabbitmq, amqp_vhost):
    return rabbitmq.url(amqp_vhost)


@pytest.fixture
def qpid_url(rabbitmq, amqp_vhost):
    """The same virtual host by AMQP 1.0: RabbitMQ's plugin."""
    return rabbitmq.qpid_url(amqp_vhost)


@pytest.fixture(scope='session')
def rabbitmq4():
    """One of today's, which speaks AMQP 1.0 without a plugin."""
    with RabbitMQ(tree=programs.tree()) as server:
        yield server


@pytest.fixture
def rabbitmq4_url(rabbitmq4):
    return rabbitmq4.amqp10_url()


@pytest.fixture(scope='session')
def artemis_session():
    with Artemis() as server:
        yield server


@pytest.fixture
def artemis(artemis_session):
    """The Artemis of this run. A test that kills it starts it again."""
    yield artemis_session
    if not artemis_session.running:
        artemis_session.start()


@pytest.fixture
def artemis_url(artemis):
    return artemis.url()


@pytest.fixture(scope='session')
def broker_j_session():
    with BrokerJ() as server:
        yield server


@pytest.fixture
def broker_j(broker_j_session):
    """The Broker-J of this run. A test that kills it starts it again."""
    yield broker_j_session
    if not broker_j_session.running:
        broker_j_session.start()


@pytest.fixture
def broker_j_url(broker_j):
    return broker_j.url()


@pytest.fixture(scope='module')
def rabbitmq_cluster():
    """Three nodes, for the tests of one file: each takes 150 MB."""
    with RabbitCluster() as cluster:
        yield cluster


@pytest.fixture(scope='session')
def redis_session(certificates):
    with Redis(certificates) as server:
        yield server


@pytest.fixture
def redis_server(redis_session):
    """The Redis of this run, emptied after the test."""
    yield redis_session
    if not redis_session.running:
        redis_session.start()
    redis_session.flush()


@pytest.fixture
def redis_url(redis_server):
    return redis_server.url()


@pytest.fixture
def redis_tls_url(redis_server):
    return f'{redis_server.tls_url()}?ssl_ca_certs={redis_server.certificates.ca}'


@pytest.fixture
def file_url(tmp_path):
    """A broker in a folder of its own."""
    return f'file://{tmp_path}/broker'


@pytest.fixture(scope='session')
def postgresql_session():
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def postgresql(postgresql_session):
    """The PostgreSQL of this run. A test that kills it starts it again."""
    yield postgresql_session
    if not postgresql_session.running:
        postgresql_session.start()


@pytest.fixture
def database(postgresql):
    """The name of an empty database that is this test's own."""
    name = postgresql.create_database()
    yield name
    postgresql.drop_database(name)


@pytest.fixture
def postgresql_url(postgresql, database):
    return postgresql.url(database)


@pytest.fixture
def pgmq_database(postgresql):
    """The name of a database of this test's own, with pgmq in it and no queue."""
    name = postgresql.create_database(template=postgresql.pgmq_template())
    yield name
    postgresql.drop_database(name)


@pytest.fixture
def pgmq_url(postgresql, pgmq_database):
    return postgresql.url(pgmq_database, 'pgmq')


@pytest.fixture(scope='session')
def mariadb_session():
    with MariaDB() as server:
        yield server


@pytest.fixture
def mariadb(mariadb_session):
    """The MariaDB of this run. A test that kills it starts it again."""
    yield mariadb_session
    if not mariadb_session.running:
        mariadb_session.start()


@pytest.fixture
def mariadb_database(mariadb):
    """The name of an empty database that is this test's own."""
    name = mariadb.create_database()
    yield name
    mariadb.drop_database(name)


@pytest.fixture
def mariadb_url(mariadb, mariadb_database):
    return mariadb.url(mariadb_database)


@pytest.fixture
def filesystem_url(tmp_path):
    """Queues as files in a folder of its own, in kombu's layout."""
    data, control = tmp_path / 'data', tmp_path / 'control'
    return f'filesystem:///?data_folder_in={data}&data_folder_out={data}&control_folder={control}'


@pytest.fixture
def sqla_sqlite_url(tmp_path):
    """kombu's tables in a file of SQLite."""
    return f'sqla+sqlite:///{tmp_path}/kombu.db'


@pytest.fixture
def redis_unix_url(redis_server):
    return redis_server.unix_url()


@pytest.fixture
def redis_untold_url(redis_server):
    """The user may not use CLIENT TRACKING: consumers wait with BLMOVE."""
    return redis_server.url().replace('redis://', 'redis://untold:secret@')


@pytest.fixture(scope='session')
def redis_sentinels():
    """A primary, a replica and three sentinels, for this run."""
    with Sentinels() as topology:
        yield topology


@pytest.fixture
def sentinel_url(redis_sentinels):
    yield redis_sentinels.url(f'master_name={redis_sentinels.master}')
    redis_sentinels.primary().flush()


@pytest.fixture(scope='session')
def redis_cluster():
    """Three primaries, for this run."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster):
    yield redis_cluster.url()
    redis_cluster.flush()


@pytest.fixture(scope='session')
def redis_six():
    """Three primaries with a replica each, for this run."""
    with Cluster(replicas=1) as cluster:
        yield cluster


@pytest.fixture
def redis_six_url(redis_six):
    yield redis_six.url()
    redis_six.flush()


@pytest.fixture(scope='session')
def fauxqs_session():
    with Fauxqs() as server:
        yield server


@pytest.fixture
def fauxqs(fauxqs_session):
    """The quick emulator of SQS and SNS of this run. Tests name their queues apart."""
    yield fauxqs_session
    if not fauxqs_session.running:
        fauxqs_session.start()


@pytest.fixture
def polls_end(no_greenlet_left):
    """Polls of SQS are never cut: after the test, wait for the end of those under way."""
    yield
    no_greenlet_left.leftover(2.5)


@pytest.fixture
def sqs_url(fauxqs, polls_end):
    return fauxqs.url(query='?wait_time_seconds=1')


@pytest.fixture(scope='session')
def slmq_session():
    with SLMQ() as server:
        yield server


@pytest.fixture
def slmq(slmq_session):
    """What plays SoftLayer MQ in this run. Tests name their queues apart."""
    yield slmq_session
    if not slmq_session.running:
        slmq_session.start()


@pytest.fixture
def slmq_url(slmq):
    return slmq.url('polling_interval=0.1&visibility_timeout=30')


@pytest.fixture(scope='session')
def servicebus_session():
    with ServiceBus() as server:
        yield server


@pytest.fixture
def servicebus(servicebus_session):
    """What plays Azure Service Bus in this run. Tests name their queues apart."""
    yield servicebus_session
    if not servicebus_session.running:
        servicebus_session.start()


@pytest.fixture
def servicebus_url(servicebus):
    return servicebus.url()


@pytest.fixture(scope='session')
def azurite_session():
    with Azurite() as server:
        yield server


@pytest.fixture
def azurite(azurite_session):
    """The emulator of Azure Storage Queues of this run. Tests name their queues apart."""
    yield azurite_session
    if not azurite_session.running:
        azurite_session.start()


@pytest.fixture
def azure_url(azurite):
    return azurite.url(query='?polling_interval=0.2')


@pytest.fixture(scope='session')
def moto():
    """The emulator that has STS, groups in one receive, and the rule of purges."""
    with Moto() as server:
        yield server


@pytest.fixture(scope='session')
def zookeeper_session(certificates):
    with ZooKeeper(certificates) as server:
        yield server


@pytest.fixture
def zookeeper(zookeeper_session):
    """The ZooKeeper of this run. Tests name their virtual hosts apart."""
    yield zookeeper_session
    if not zookeeper_session.running:
        zookeeper_session.start()


@pytest.fixture
def zookeeper_url(zookeeper):
    return zookeeper.url(f'test-{uuid.uuid4().hex[:12]}')


@pytest.fixture(scope='session')
def ferretdb_session():
    with FerretDB() as server:
        yield server


@pytest.fixture
def ferretdb(ferretdb_session):
    """The FerretDB of this run. A test that kills it starts it again."""
    yield ferretdb_session
    if not ferretdb_session.running:
        ferretdb_session.start()


@pytest.fixture
def mongodb_url(ferretdb):
    """A database of its own."""
    return ferretdb.url(f'test_{uuid.uuid4().hex[:12]}')


@pytest.fixture(scope='session')
def mongo_peers():
    with Peer() as one, Peer(streams=False) as other:
        yield one, other


@pytest.fixture
def mongo_peer(mongo_peers):
    """A peer of MongoDB's protocol: a replica set with change streams."""
    mongo_peers[0].fresh()
    return mongo_peers[0]


@pytest.fixture
def mongo_alone(mongo_peers):
    """The same without change streams."""
    mongo_peers[1].fresh()
    return mongo_peers[1]


@pytest.fixture
def mongodb_given_url():
    """A MongoDB that somebody else runs, a database of our own."""
    import pymongo

    given, name = os.environ['GREENMQ_MONGODB_URL'], f'greenmq_test_{uuid.uuid4().hex[:12]}'
    base, mark, query = given.partition('?')
    scheme, _, rest = base.partition('://')
    yield f'{scheme}://{rest.partition("/")[0]}/{name}{mark}{query}'
    with pymongo.MongoClient(given) as client:
        client.drop_database(name)


@pytest.fixture(scope='session')
def pyro_session():
    with PyroBroker() as broker:
        yield broker


@pytest.fixture
def pyro_broker(pyro_session):
    """The Pyro daemon of this run, with a store. Tests name their queues apart."""
    yield pyro_session
    if not pyro_session.running:
        pyro_session.start()


@pytest.fixture
def pyro_url(pyro_broker):
    return pyro_broker.url()


def fresh_output():
    """`(name, text)` of each running server: what it wrote since this was last asked."""
    return [(server.name, text) for server in RUNNING if (text := server.new_output())]
