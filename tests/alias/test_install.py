"""What `import kombu` gives once greenmq stands in its place: the rules that mattered to programs."""

import pytest

from greenmq.alias.names import API, CLASSES
from tests.alias.child import need_the_pth, python
from tests.compat.table import TABLE

pytestmark = [pytest.mark.own_process, pytest.mark.slow]


@pytest.fixture(autouse=True, scope='module')
def pth():
    need_the_pth()


def test_installing_the_package_changes_nothing():
    assert python('''
        import sys, greenmq, kombu
        import kombu.connection
        print(kombu.connection.__file__.endswith('kombu/connection.py'),
              any('greenmq_as' in type(each).__module__ for each in sys.meta_path))
    ''', switch=None) == 'True False\n'


def test_nothing_of_greenmq_is_loaded_before_kombu_is_imported():
    assert python('''
        import sys
        loops = {'gevent', 'eventlet', 'greenlet', 'threading', 'logging'}
        print([name for name in sys.modules if name.partition('.')[0] in {'greenmq', *loops}])
        import kombu
        print([name for name in sys.modules if name in loops - {'logging', 'threading'}])
    ''') == '[]\n[]\n'


def test_one_module_has_both_names():
    assert python('''
        import importlib, sys
        names = sys.argv[1].split()
        for name in names:
            ours = importlib.import_module(f'greenmq.{name}')
            theirs = importlib.import_module(f'kombu.{name}')
            assert ours is theirs, name
            assert theirs.__spec__.name == f'greenmq.{name}' == theirs.__name__, theirs.__spec__
            assert importlib.util.find_spec(f'kombu.{name}') is not None
        from kombu.transport import virtual
        import kombu, greenmq
        assert kombu.Connection is greenmq.Connection and kombu.transport is greenmq.transport
        assert not [name for name in sys.modules if name.startswith('kombu.')
                    and '/kombu/' in (sys.modules[name].__file__ or '')]
        print('one')
    ''', ' '.join(name for name in TABLE['modules'] if name)) == 'one\n'


def test_the_package_tells_the_version_of_the_api_and_is_greenmq_otherwise():
    assert TABLE['version'] == '.'.join(map(str, API))
    assert python('''
        import kombu, greenmq
        from unittest import mock
        print(kombu.__version__, kombu.VERSION[:3], kombu.version_info_t is greenmq.version_info_t,
              kombu.__path__)
        kombu.of_mine = 1
        assert greenmq.of_mine == 1
        del kombu.of_mine
        assert not hasattr(greenmq, 'of_mine')
        with mock.patch('kombu.Connection', 'patched'):
            from kombu import Connection
            assert Connection == 'patched' == greenmq.Connection
        assert greenmq.Connection.__name__ == 'Connection'
        try:
            kombu.nonsense
        except AttributeError as exc:
            print(exc)
    ''').splitlines() == [
        f"{TABLE['version']} {API} True {__import__('greenmq').__path__!r}",
        "module 'kombu', in whose place greenmq stands, has no attribute 'nonsense'"]


def test_what_greenmq_lacks_says_so_and_never_loads_kombus_file():
    out = python('''
        import importlib, importlib.util
        for name in ('kombu.nonsense', 'kombu.asynchronous.aws', 'kombu.asynchronous.aws.sqs',
                     'kombu.utils.nothing', 'kombu.transport.redis.nothing', 'kombu.transport.nothing'):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as exc:
                print(exc.name, '|', exc)
        print(importlib.util.find_spec('kombu.nonsense'), importlib.util.find_spec('kombu.transport.nothing'))
    ''').splitlines()
    assert len(out) == 7 and out[-1] == 'None None'
    assert out[0] == ("kombu.nonsense | No module named 'kombu.nonsense': greenmq stands in kombu's place "
                      'here and has no greenmq.nonsense')
    assert all("greenmq stands in kombu's place here" in line for line in out[:-1])


def test_classes_carry_kombus_modules_so_that_pickles_are_read_by_both():
    recorded = {name: ' '.join(sorted(module['classes'])) for name, module in TABLE['modules'].items()
                if name and module.get('classes')}
    assert recorded == {name: ' '.join(sorted(classes.split())) for name, classes in CLASSES.items()}
    out = python('''
        import importlib, pickle, sys, greenmq.exceptions
        from greenmq.alias.names import CLASSES
        for name, classes in CLASSES.items():
            module = importlib.import_module(f'kombu.{name}')
            for known in classes.split():
                cls = getattr(module, known, None)
                if isinstance(cls, type) and not cls.__module__.startswith(('amqp', 'redis.')):
                    assert cls.__module__ == f'kombu.{name}', cls
        error = pickle.dumps(greenmq.exceptions.OperationalError('x'))
        assert b'greenmq' not in error
        sys.stdout.write(error.hex())
    ''')
    assert python('''
        import pickle, sys
        error = pickle.loads(bytes.fromhex(sys.argv[1]))
        print(type(error).__module__, error, 'greenmq' in sys.modules)
    ''', out, switch=None) == 'kombu.exceptions x False\n'


def test_settings_for_kombus_loggers_reach_greenmqs():
    for early in (True, False):
        out = python(f'''
            import logging.config
            def configure():
                logging.config.dictConfig({{
                    'version': 1,
                    'handlers': {{'out': {{'class': 'logging.StreamHandler', 'stream': 'ext://sys.stdout',
                                         'formatter': 'f'}}}},
                    'formatters': {{'f': {{'format': '%(name)s %(levelname)s %(message)s'}}}},
                    'loggers': {{'kombu': {{'level': 'INFO', 'handlers': ['out']}},
                                'kombu.connection': {{'level': 'DEBUG'}}}}}})
            {"configure()" if early else ""}
            import kombu, greenmq.connecting.opening
            {"" if early else "configure()"}
            with kombu.Connection('memory://') as connection:
                connection.connect()
            greenmq.connecting.opening.logger.debug('told')
        ''').splitlines()
        assert out[0].startswith('kombu.connection INFO greenmq ') and 'GREENMQ_AS_KOMBU=1' in out[0]
        assert out[-1] == 'kombu.connection DEBUG told'


def test_too_late_is_an_error_that_names_who_and_which_door():
    assert python('''
        import types, sys
        first = types.ModuleType('first'); sys.modules['first'] = first
        from kombu import Connection
        first.Connection = Connection
        import greenmq.alias
        try:
            greenmq.alias.install()
        except ImportError as exc:
            print(exc)
        print(greenmq.alias.active())
    ''', switch=None).splitlines() == [
        'kombu itself is imported already, by first (also held by __main__): what holds its classes would '
        "not see greenmq's. Call greenmq.alias.install() before that import, or set GREENMQ_AS_KOMBU=1 in "
        'the environment, or start the program as `greenmq run COMMAND`: both come before any import',
        'False']


def test_install_in_the_program_and_what_was_loaded_before_is_adopted():
    assert python('''
        import greenmq.exceptions, greenmq.connecting.opening
        from greenmq import alias
        print(alias.active(), alias.install(), alias.install(), alias.door())
        import kombu.exceptions
        print(kombu.exceptions is greenmq.exceptions, kombu.exceptions.KombuError.__module__,
              greenmq.connecting.opening.logger.name, alias.replaced())
    ''', switch=None).splitlines() == [
        'False True False greenmq.alias.install()',
        'True kombu.exceptions kombu.connection '
        "{'kombu': 'greenmq', 'kombu.exceptions': 'greenmq.exceptions'}"]


def test_names_in_strings_resolve():
    assert python('''
        from kombu.utils.imports import symbol_by_name
        import greenmq.transport.redis, greenmq.utils.json, kombu
        assert symbol_by_name('kombu.transport.redis:Transport') is greenmq.transport.redis.Transport
        assert symbol_by_name('kombu.utils.json') is greenmq.utils.json
        connection = kombu.Connection(transport='kombu.transport.memory:Transport')
        assert connection.transport.driver_type == 'memory'
        print('resolved')
    ''') == 'resolved\n'


def test_heartbeats_stay_greenmqs_own():
    # Celery drains its event connection for 0.1 s after each message where this is true: 10 tasks a second.
    assert python('''
        import kombu
        for url in ('amqp://', 'redis://', 'memory://'):
            print(kombu.Connection(url).supports_heartbeats, end=' ')
    ''') == 'False False False '


def test_every_name_that_celery_takes_from_kombu_is_there():
    assert python("""
        import ast, importlib, pathlib
        import celery
        missing, names = [], 0
        for path in pathlib.Path(celery.__file__).parent.rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                    continue
                if node.module.partition('.')[0] != 'kombu':
                    continue
                module = importlib.import_module(node.module)
                for alias in node.names:
                    names += 1
                    if not hasattr(module, alias.name):
                        try:
                            importlib.import_module(f'{node.module}.{alias.name}')
                        except ImportError:
                            missing.append(f'{path.name}: {node.module}.{alias.name}')
        print(names > 50, missing)
    """, seconds=60).strip() == 'True []'
