"""Who may import whom. The list below is the architecture; this file holds it.

A module may import those of the levels above its own and of its own level, never those below. What stands
under ``if TYPE_CHECKING:`` is a hint and no import.
"""

import pytest

from tests.house.source import PACKAGE, modules

LEVELS = (
    ('exceptions', 'types', 'core.*', 'runtime.*', 'events',
     'connecting', 'pooling', 'publishing', 'consuming'),
    ('utils.*', 'log', 'lag', 'matcher', 'asynchronous.*'),
    ('serialization', 'compression', 'clocks', 'message', 'abstract', 'exchange', 'entity'),
    ('transport.*',),
    ('pooling.lease', 'pooling.stats', 'pooling.reaper', 'pooling.background',
     'pooling.threads', 'connecting.threads', 'resource'),
    ('connecting.address', 'connecting.attempt', 'connecting.opening', 'connecting.retrying',
     'pooling.connections', 'connection'),
    ('publishing.arguments', 'publishing.batch', 'publishing.backlog', 'publishing.declaring',
     'publishing.later', 'publishing.producer',
     'consuming.standins', 'consuming.consumer', 'common', 'messaging'),
    ('pooling.shared', 'pools', 'simple', 'consuming.status', 'consuming.runners', 'consuming.loop',
     'mixins', 'node', 'pidbox', 'compat'),
    ('',),
    ('diagnosis', 'worker.*', 'cli.*', 'contrib.*', 'alias.*'),
)

# kombu's API points upwards in these places; the import stands inside the method.
UPWARD = {
    ('utils.text', ''): 'version_string_as_tuple gives the version_info_t of the package',
    ('transport.base', 'messaging'): 'StdChannel.Consumer, StdChannel.Producer',
    ('connection', 'messaging'): 'Connection.Consumer, Connection.Producer',
    ('connection', 'simple'): 'Connection.SimpleQueue, Connection.SimpleBuffer',
}

# Books are kept without waiting, and waiting knows no books: these see the errors and themselves only.
ALONE = {'core': {'core', 'exceptions'}, 'runtime': {'runtime', 'exceptions'}, 'exceptions': set()}

# A transport does not see who uses it. Hints and native_delayed_delivery, whose API builds entities, apart.
NOT_FOR_TRANSPORTS = {'entity'}
MAY_BUILD_ENTITIES = {'transport.native_delayed_delivery'}

# What transports share; everything else below `transport` belongs to one of them.
SHARED_BY_TRANSPORTS = {'', 'amqp10', 'base', 'credentials', 'virtual', 'driver', 'drain', 'entra', 'errors',
                        'eventloop', 'gate', 'http', 'limits', 'numbers', 'options', 'outbox', 'owners',
                        'patience', 'pause', 'postgresql', 'waiters'}

DRIVERS = {
    'amqp': {'exceptions', 'transport.pyamqp'},
    'vine': {'transport.pyamqp'},
    'redis': {'transport.redis'},
    'hiredis': {'transport.redis'},
    'msgspec': {'utils'},
    'boto3': {'transport.SQS'},
    'botocore': {'transport.SQS'},
    'h11': {'transport.http'},
    'psycopg': {'transport.postgresql'},
    'sqlalchemy': {'transport.sqlalchemy'},
    'pymongo': {'transport.mongodb'},
    'bson': {'transport.mongodb'},
    'kazoo': {'transport.zookeeper'},
    'azure': {'transport.entra'},
    'Pyro5': {'transport.pyro'},
    'opentelemetry': {'contrib'},
    'prometheus_client': {'worker'},
    'click': {'cli'},
    'tqdm': {'cli'},
}


def level(name):
    for number, patterns in enumerate(LEVELS):
        for pattern in patterns:
            if name == pattern or pattern.endswith('.*') and within(name, pattern[:-2]):
                return number
    return None


def within(name, package):
    return name == package or name.startswith(f'{package}.')


def inside(module):
    """The imports of a module that name another part of the package, as (import, name below the package)."""
    for found in module.imports:
        if within(found.target, PACKAGE) and not found.only_for_hints:
            yield found, found.target[len(PACKAGE) + 1:]


@pytest.mark.parametrize('module', modules(), ids=str)
class TestModule:

    def test_has_a_level(self, module):
        assert level(module.name) is not None, f'{module}: say in LEVELS where it belongs'

    def test_imports_nothing_from_below(self, module):
        wrong = [f'{module.at(found.line)} imports {target or PACKAGE}' for found, target in inside(module)
                 if level(target) > level(module.name)
                 and not (found.in_function and (module.name, target) in UPWARD)]
        assert not wrong, '\n'.join(wrong)

    def test_books_and_waiting_stay_apart(self, module):
        allowed = ALONE.get(module.name.partition('.')[0])
        wrong = [f'{module.at(found.line)} imports {target}' for found, target in inside(module)
                 if allowed is not None and target.partition('.')[0] not in allowed]
        assert not wrong, '\n'.join(wrong)

    def test_a_transport_sees_no_entity_and_no_other_transport(self, module):
        if not within(module.name, 'transport'):
            return
        mine = module.name.split('.')[1:2]
        wrong = []
        for found, target in inside(module):
            if within(target, 'transport'):
                other = target.split('.')[1:2]
                bad = other != mine and ''.join(other) not in SHARED_BY_TRANSPORTS and mine != []
            else:
                bad = target in NOT_FOR_TRANSPORTS and module.name not in MAY_BUILD_ENTITIES
            if bad:
                wrong.append(f'{module.at(found.line)} imports {target}')
        assert not wrong, '\n'.join(wrong)

    def test_a_driver_belongs_to_its_transport(self, module):
        wrong = []
        for found in module.imports:
            owners = DRIVERS.get(found.target.partition('.')[0])
            if owners is not None and not any(within(module.name, owner) for owner in owners):
                wrong.append(f'{module.at(found.line)} imports {found.target}')
        assert not wrong, '\n'.join(wrong)


def test_no_circle():
    # Given what each module imports while it is itself imported
    graph = {module.name: {target for found, target in inside(module) if not found.in_function}
             for module in modules()}
    done, way = set(), []

    def visit(name):
        assert name not in way, ' -> '.join([*way[way.index(name):], name])
        if name in done:
            return
        way.append(name)
        for target in sorted(graph.get(name, ())):
            visit(target)
        way.pop()
        done.add(name)

    # Then following it never comes back
    for name in sorted(graph):
        visit(name)


def test_the_upward_edges_are_all_in_use():
    used = {(module.name, target) for module in modules() for _, target in inside(module)}
    assert set(UPWARD) <= used
