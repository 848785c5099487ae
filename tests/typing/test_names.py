"""The names of the package, for editors too, though none is loaded before it is used."""

import ast

import jedi
import pytest

import greenmq
from tests.house.source import ROOT

STUB = ast.parse((ROOT / 'greenmq' / '__init__.pyi').read_text())


def offered():
    """What the stub says is public: name → the module that it comes from."""
    return {alias.asname: node.module for node in STUB.body if isinstance(node, ast.ImportFrom)
            for alias in node.names if alias.asname}


def test_the_stub_and_the_table_of_lazy_names_are_one():
    assert offered() == {name: f'greenmq.{origin}' for name, origin in greenmq._ORIGINS.items()}
    listed = next(node.value for node in STUB.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(greenmq.__all__) == sorted(offered())


def test_the_stub_has_what_is_not_lazy():
    made = {node.target.id if isinstance(node, ast.AnnAssign) else node.name for node in STUB.body
            if isinstance(node, (ast.AnnAssign, ast.ClassDef))}
    assert made == {name for name in vars(greenmq) if name[0] != '_' and name not in offered()
                    and type(vars(greenmq)[name]).__name__ != 'module'} | {'__version__'}
    fields = next(node for node in STUB.body if isinstance(node, ast.ClassDef)).body
    assert tuple(field.target.id for field in fields) == greenmq.version_info_t._fields


def test_dir_shows_what_is_public():
    shown = {name for name in dir(greenmq) if not name.startswith('__')}
    assert shown == {*greenmq.__all__, 'VERSION', 'version_info', 'version_info_t'}
    assert all(hasattr(greenmq, name) for name in dir(greenmq))


@pytest.mark.slow
@pytest.mark.parametrize('before, wanted', [
    ('import greenmq\ngreenmq.', set(greenmq.__all__)),
    ('from greenmq import ', set(greenmq.__all__)),
    ('import greenmq\ngreenmq.Connection().', {'channel', 'default_channel', 'drain_events'}),
    ('from greenmq import Queue\nQueue().', {'declare', 'get', 'purge'}),
    ('from greenmq import Producer\nProducer(None).', {'publish', 'publish_nowait'}),
], ids=['module', 'import', 'connection', 'queue', 'producer'])
@pytest.mark.own_process  # jedi reads in a process of its own, by threads of the standard library
def test_an_editor_that_only_reads_completes_them(before, wanted):
    program = jedi.Script(before)
    assert wanted <= {found.name for found in program.complete()}
