"""From ``module:Class`` to a worker, or to one line that says what is wrong."""
import sys

import pytest

from greenmq import Connection
from greenmq.mixins import ConsumerMixin
from greenmq.worker.loading import NotAWorker, build

MODULE = '''
from greenmq.mixins import ConsumerMixin

class Good(ConsumerMixin):
    def __init__(self, connection):
        self.connection = connection

class NoInit(ConsumerMixin):
    pass

class TooMany(ConsumerMixin):
    def __init__(self, connection, other):
        self.connection = connection

class Forgetful(ConsumerMixin):
    def __init__(self, connection):
        pass

class Failing(ConsumerMixin):
    def __init__(self, connection):
        len(5)
'''


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    (tmp_path / 'loading_shop.py').write_text(MODULE)
    (tmp_path / 'loading_broken.py').write_text('import not_there_at_all')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    yield
    for name in ('loading_shop', 'loading_broken'):
        sys.modules.pop(name, None)


def test_a_module_of_the_current_directory_is_found():
    connection = Connection('memory://')
    worker = build('loading_shop:Good', connection)
    assert isinstance(worker, ConsumerMixin) and worker.connection is connection


@pytest.mark.parametrize('target, said', [
    ('loading_shop', 'not of the form module:Class'),
    (':Good', 'not of the form module:Class'),
    ('loading_nothing:Good', "there is no module 'loading_nothing'"),
    ('loading_shop.inner:Good', "there is no module 'loading_shop.inner'"),
    ('shops/loading_shop.py:Good', 'modules are named with dots: shops.loading_shop:Good'),
    ('loading_shop:Bad', "has no 'Bad'; its workers: Failing, Forgetful, Good, NoInit, TooMany"),
    ('loading_shop:MODULE', "has no 'MODULE'"),
    ('loading_shop:__name__', "'loading_shop', not a subclass of greenmq.mixins.ConsumerMixin"),
    ('loading_shop:NoInit', 'cannot be made as NoInit(connection): too many positional arguments'),
    ('loading_shop:TooMany', "cannot be made as TooMany(connection): missing a required argument: 'other'"),
    ('loading_shop:Forgetful', 'has no attribute connection'),
])
def test_what_is_wrong_is_said_in_a_line(target, said):
    with pytest.raises(NotAWorker) as caught:
        build(target, Connection('memory://'))
    assert said in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('target, error', [
    ('loading_broken:Good', ModuleNotFoundError),
    ('loading_shop:Failing', TypeError),
])
def test_errors_of_the_program_come_out_as_they_are(target, error):
    with pytest.raises(error) as caught:
        build(target, Connection('memory://'))
    assert not isinstance(caught.value, NotAWorker)
