"""Transports that are not greenmq's: other packages', and kombu's own where greenmq has none."""

import pytest

from tests.alias.child import need_the_pth, python

pytestmark = [pytest.mark.own_process, pytest.mark.slow]


@pytest.fixture(autouse=True, scope='module')
def pth():
    need_the_pth()


def test_a_transport_that_another_package_wrote_for_kombu(tmp_path):
    (tmp_path / 'theirs.py').write_text('''
from queue import Empty, Queue
from kombu.transport import virtual
from kombu.utils.json import dumps, loads

class Channel(virtual.Channel):
    queues = {}
    def _new_queue(self, queue, **kwargs):
        self.queues.setdefault(queue, Queue())
    def _put(self, queue, message, **kwargs):
        self.queues[queue].put(dumps(message))
    def _get(self, queue, timeout=None):
        return loads(self.queues[queue].get_nowait())
    def _size(self, queue):
        return self.queues[queue].qsize()
    def _purge(self, queue):
        n = self._size(queue)
        self.queues[queue].queue.clear()
        return n

class Transport(virtual.Transport):
    Channel = Channel
    driver_type = driver_name = 'theirs'
    def driver_version(self):
        return '1'
''')
    assert python('''
        import sys, warnings
        warnings.simplefilter('error')
        sys.path.insert(0, sys.argv[1])
        import kombu, kombu.transport
        kombu.transport.TRANSPORT_ALIASES['theirs'] = 'theirs:Transport'
        with kombu.Connection('theirs://', transport_options={'of_theirs': 1}) as connection:
            queue = connection.SimpleQueue('q')
            queue.put({'a': 1})
            message = queue.get(timeout=10)
            print(message.payload, type(connection.transport).__mro__[1].__module__)
            message.ack()
    ''', str(tmp_path)) == "{'a': 1} kombu.transport.virtual.base\n"


def test_kombus_options_of_filesystem_reach_greenmqs_own(tmp_path):
    assert python('''
        import sys, greenmq, kombu
        options = dict.fromkeys(('data_folder_in', 'data_folder_out', 'control_folder'), sys.argv[1])
        with kombu.Connection('filesystem://', transport_options=options) as connection:
            queue = connection.SimpleQueue('q')
            queue.put({'a': 1})
            message = queue.get(timeout=10)
            print(message.payload, isinstance(connection, greenmq.Connection))
            message.ack()
        import kombu.transport.filesystem
        print(kombu.transport.filesystem.Transport is greenmq.transport.filesystem.Transport,
              kombu.transport.filesystem.Channel.__module__)
    ''', str(tmp_path)) == "{'a': 1} True\nTrue greenmq.transport.driver.channel\n"


@pytest.mark.parametrize('name, scheme', [
    ('confluentkafka', 'kafka'), ('consul', 'consul'), ('etcd', 'etcd'), ('gcpubsub', 'gcpubsub'),
])
def test_each_of_kombus_own_loads_from_its_file_or_names_what_is_missing(name, scheme):
    out = python('''
        import importlib, sys
        import kombu
        name, scheme = sys.argv[1:]
        try:
            module = importlib.import_module(f'kombu.transport.{name}')
        except ImportError as exc:
            print('refused', exc)
            try:
                kombu.Connection(f'{scheme}://').transport
            except ImportError as exc:
                print('refused', exc)
        else:
            print('loaded', module.__file__)
            assert kombu.transport.get_transport_cls(scheme) is module.Transport
            assert issubclass(module.Transport, kombu.transport.base.Transport)
    ''', name, scheme).splitlines()
    if out[0].startswith('loaded'):
        assert f'/kombu/transport/{name}' in out[0]
    else:
        assert len(out) == 2
        assert all(f'kombu.transport.{name} is no transport of greenmq, and kombu\'s own file' in line
                   for line in out)


def test_without_kombu_installed_a_missing_transport_says_that_too():
    assert python('''
        import sys
        from importlib.machinery import PathFinder

        class Without(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return None if name == 'kombu' else PathFinder.find_spec(name, path, target)

        sys.meta_path[:] = [Without if each is PathFinder else each for each in sys.meta_path]
        import kombu
        try:
            import kombu.transport.consul
        except ModuleNotFoundError as exc:
            print(exc)
    ''') == ("No module named 'kombu.transport.consul': greenmq stands in kombu's place here and has no "
             'greenmq.transport.consul; kombu, whose transports could be loaded, is not installed\n')


@pytest.mark.parametrize('url', ['memory://', 'file://{}'])
def test_what_has_expired_is_left_to_the_consumer_as_in_kombu(tmp_path, url):
    assert python('''
        import sys, time, kombu
        with kombu.Connection(sys.argv[1]) as connection:
            queue = connection.SimpleQueue('q')
            queue.put('late', expiration=0.001)
            time.sleep(0.02)
            print(queue.get(timeout=5).payload)
    ''', url.format(tmp_path)) == 'late\n'
