"""Round every test: a green timeout, no error in the hub, no greenlet left over, an empty in-memory broker.

Tests run in the main greenlet, as a script of a user does, so that fixtures and the test share it. The time
limit is a Timeout of the runtime, thrown there; half a minute later comes the last net, for a test that never
lets the hub run.
"""
from __future__ import annotations

import contextlib
import gc
import itertools
import os
import re
import signal
import sys

import pytest

from greenmq import Connection
from tests.support import green, guard, last_net, servers
from tests.support.servers import (  # noqa: F401 - fixtures for every test
    amqp_url,
    amqp_vhost,
    artemis,
    artemis_session,
    artemis_url,
    azure_url,
    azurite,
    azurite_session,
    broker_j,
    broker_j_session,
    broker_j_url,
    certificates,
    database,
    fauxqs,
    fauxqs_session,
    ferretdb,
    ferretdb_session,
    file_url,
    filesystem_url,
    mariadb,
    mariadb_database,
    mariadb_session,
    mariadb_url,
    mongo_alone,
    mongo_peer,
    mongo_peers,
    mongodb_given_url,
    mongodb_url,
    moto,
    pgmq_database,
    pgmq_url,
    polls_end,
    postgresql,
    postgresql_session,
    postgresql_url,
    pyro_broker,
    pyro_session,
    pyro_url,
    qpid_url,
    rabbitmq,
    rabbitmq4,
    rabbitmq4_url,
    rabbitmq_cluster,
    redis_cluster,
    redis_cluster_url,
    redis_sentinels,
    redis_server,
    redis_session,
    redis_six,
    redis_six_url,
    redis_tls_url,
    redis_unix_url,
    redis_untold_url,
    redis_url,
    sentinel_url,
    servicebus,
    servicebus_session,
    servicebus_url,
    slmq,
    slmq_session,
    slmq_url,
    sqla_sqlite_url,
    sqs_url,
    zookeeper,
    zookeeper_session,
    zookeeper_url,
)

#: Seconds for the test, and as many for tear-down; `slow` tests get the second figure, and
#: `@pytest.mark.green_timeout(seconds)` says otherwise.
TIME_LIMIT, SLOW_TIME_LIMIT = 30, 600 if os.environ.get('GREENMQ_SOAK') else 240
#: Seconds for set-up, at least: where lanes start their servers at once, one may need a minute.
SETUP_LIMIT = 150
LAST_NET = 30
NO_LIMIT = 86400.0  # for `--timeout 0`, in a debugger

ABOUT_GEVENT = re.compile(r'^ *(import|from) gevent\b', re.MULTILINE)


LAST_NET_SECONDS = pytest.StashKey[float]()


def pytest_configure(config):
    last_net.prepare()
    for line in (
        'green_timeout(seconds): time limit of this test; the stacks of all greenlets are shown at its end',
        'slow: takes more than 0.25 s or belongs to the soak',
        'stress: storms, soaks and leak slopes',
        'rabbitmq: needs a RabbitMQ server that the suite starts',
        'redis: needs a Redis server that the suite starts',
        'azure: needs an emulator of Azure Storage that the suite starts',
        'amqp10: needs a broker of AMQP 1.0 that takes Java',
        'servicebus: needs the program that plays Azure Service Bus',
        'slmq: needs the program that plays SoftLayer MQ',
        'sqs: needs an emulator of SQS that the suite starts',
        'postgresql: needs a PostgreSQL server that the suite starts',
        'mongodb: needs a FerretDB that was built, or the peer of MongoDB',
        'zookeeper: needs a ZooKeeper server that the suite starts',
        'mariadb: needs a MariaDB server that the suite starts',
        'keeps_greenlets: the test leaves greenlets on purpose (say why beside the mark)',
    ):
        config.addinivalue_line('markers', line)


def pytest_ignore_collect(collection_path, config):
    """On another runtime than gevent, leave out the files that are about gevent."""
    if green.RUNTIME != 'gevent' and collection_path.name.startswith('test_'):
        if ABOUT_GEVENT.search(collection_path.read_text()):
            return True
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        # The fixture names are the truth about which server a test needs.
        names = set(getattr(item, 'fixturenames', ()))
        if names & {'rabbitmq', 'amqp_vhost', 'amqp_url', 'qpid_url', 'rabbitmq_cluster'}:
            item.add_marker(pytest.mark.rabbitmq)
        if names & {'redis_server', 'redis_url', 'redis_cluster', 'redis_six', 'redis_sentinels'}:
            item.add_marker(pytest.mark.redis)
        if names & {'artemis', 'artemis_url', 'broker_j', 'broker_j_url'}:
            item.add_marker(pytest.mark.amqp10)
        if names & {'azurite', 'azure_url'}:
            item.add_marker(pytest.mark.azure)
        if names & {'servicebus', 'servicebus_url'}:
            item.add_marker(pytest.mark.servicebus)
        if names & {'slmq', 'slmq_url'}:
            item.add_marker(pytest.mark.slmq)
        if names & {'fauxqs', 'sqs_url', 'moto'}:
            item.add_marker(pytest.mark.sqs)
        if names & {'postgresql', 'postgresql_url', 'database', 'pgmq_database', 'pgmq_url'}:
            item.add_marker(pytest.mark.postgresql)
        if names & {'ferretdb', 'mongodb_url', 'mongo_peer', 'mongo_alone'}:
            item.add_marker(pytest.mark.mongodb)
        if names & {'zookeeper', 'zookeeper_url'}:
            item.add_marker(pytest.mark.zookeeper)
        if names & {'mariadb', 'mariadb_url', 'mariadb_database'}:
            item.add_marker(pytest.mark.mariadb)
        if item.get_closest_marker('amqp10') is not None:
            item.add_marker(pytest.mark.once)  # what is ours there runs patched and on eventlet with RabbitMQ
        if item.get_closest_marker('timeout') is None:
            item.add_marker(pytest.mark.timeout(sum(_limit(item, when) for when in PHASES) + LAST_NET))


PHASES = ('setup', 'call', 'teardown')


def _limit(item, when):
    mark = item.get_closest_marker('green_timeout')
    if mark is not None:
        limit = mark.args[0]
    else:
        limit = SLOW_TIME_LIMIT if item.get_closest_marker('slow') is not None else TIME_LIMIT
    return max(limit, {'setup': SETUP_LIMIT, 'call': 0, 'teardown': TIME_LIMIT}[when])


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background deaf to Ctrl-C, and children inherit that: tests would press
    # it in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _phase(item, when):
    return guard.limited(_limit(item, when), lambda title, text: item.add_report_section(when, title, text))


# pytest-timeout reads the option and the mark. Its own timer stops at the first failure and is not started
# again for what is rerun, and what its signal raises in the hub is lost there.
def pytest_timeout_set_timer(item, settings):
    item.stash[LAST_NET_SECONDS] = settings.timeout
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    last_net.spread(item.nodeid, item.stash.get(LAST_NET_SECONDS, NO_LIMIT))
    with _phase(item, 'setup'):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    try:
        return (yield)
    except guard.GreenTimeout as exc:
        # pytest notes only an Exception as the outcome of a fixture. For any other it would refuse to set
        # this one up again, and fail every test that comes after.
        if fixturedef.cached_result is None:
            fixturedef.cached_result = (None, fixturedef.cache_key(request), (exc, exc.__traceback__))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with _phase(item, 'call'):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    try:
        with _phase(item, 'teardown'):
            return (yield)
    finally:
        last_net.take_in()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    output = servers.fresh_output()
    if report.failed:
        report.sections += [(f'output of {name}', text) for name, text in output]
    return report


@pytest.fixture(autouse=True, scope='module')
def earlier_objects_aside():
    """Hide from the collector, and from who counts objects, all that pytest keeps of earlier tests.

    Each full collection would go through it again: in a lane of the whole suite a census took four times the
    processor time that it takes by itself.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def hub_errors():
    """The errors that reached a hub during the test. Any that the test does not `take` fails it."""
    with guard.HubErrors() as errors:
        yield errors
        green.sleep(0)  # callbacks that are due still belong to this test
    if errors:
        pytest.fail('errors in the hub:\n' + errors.report(), pytrace=False)


@pytest.fixture(autouse=True)
def no_greenlet_left(request, hub_errors):
    """Fail a test that leaves a greenlet running; put the process-wide state of greenmq back."""
    with guard.Spawned() as spawned:
        yield spawned
        _forget_pools()
        _end_fakes()
        left = [] if request.node.get_closest_marker('keeps_greenlets') else spawned.leftover()
        text = guard.describe(left)
        # Whatever the verdict, the next test starts alone.
        guard.kill(spawned.alive())
        _forget_broker()
    if left:
        pytest.fail(f'{len(left)} greenlets left over:\n{text}', pytrace=False)


def _forget_pools():
    """The process-wide pools keep connections by design: close those of this test."""
    pools = sys.modules.get('greenmq.pools')
    if pools is not None and hasattr(pools, 'reset'):
        pools.reset()


def _end_fakes():
    fakes = sys.modules.get('tests.support.fakes')
    if fakes is not None:
        fakes.reset()


def _forget_broker():
    memory = sys.modules.get('greenmq.transport.memory')
    if memory is not None and hasattr(memory, 'reset'):
        memory.reset()


_numbers = itertools.count(1)


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f'test-{os.getpid()}-{next(_numbers)}'


@pytest.fixture
def opened():
    """Open a connection to a URL with arguments and transport options; closed at the end of the test."""
    with contextlib.ExitStack() as connections:

        def opened(url, arguments=None, /, **options):
            given = {'transport_options': options, **(arguments or {})}
            connection = connections.enter_context(Connection(url, **given))
            connection.connect()
            return connection

        yield opened
