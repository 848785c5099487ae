"""Only runtime knows the loop: who may import what waits, and what an import may not do."""

import ast
import json
import subprocess
import sys

import pytest

from tests.house.source import PACKAGE, ROOT, modules

# Names that wait, or make something that waits, and where they may be imported all the same.
WAITING = {
    'gevent': {'runtime.hub_gevent'},
    'eventlet': {'runtime.hub_eventlet'},
    'greenlet': {'runtime'},
    'threading': {'runtime'},
    '_thread': {'runtime'},
    'queue': {'runtime'},
    'select': {'runtime'},
    'selectors': {'runtime'},
    'asyncio': set(),
    'concurrent': {'runtime'},
    'multiprocessing': set(),
    'socketserver': set(),
}

# Calls that block the hub, or open a socket behind the runtime's back.
BLOCKING_CALLS = {
    'time': {'sleep'},
    'socket': {'socket', 'create_connection', 'create_server', 'socketpair', 'fromfd', 'getaddrinfo',
               'gethostbyname', 'setdefaulttimeout'},
    'os': {'fork', 'waitpid', 'system', 'popen'},
    'subprocess': {'run', 'Popen', 'call', 'check_call', 'check_output'},
}


def only_exceptions(node):
    """`from queue import Empty`: transports raise it by kombu's contract, and it is nothing that waits."""
    return isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} <= {'Empty', 'Full'}


def outside_runtime():
    return [module for module in modules() if module.name.partition('.')[0] != 'runtime']


@pytest.mark.parametrize('module', modules(), ids=str)
def test_what_waits_is_imported_by_runtime_alone(module):
    wrong = []
    exceptions = [node.lineno for node in ast.walk(module.tree) if only_exceptions(node)]
    for found in module.imports:
        owners = WAITING.get(found.target.partition('.')[0])
        if owners is None or found.only_for_hints or found.line in exceptions:
            continue
        if not any(module.name == owner or module.name.startswith(f'{owner}.') for owner in owners):
            wrong.append(f'{module.at(found.line)} imports {found.target}')
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('module', outside_runtime(), ids=str)
def test_nothing_outside_runtime_blocks_the_hub(module):
    wrong = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and node.func.attr in BLOCKING_CALLS.get(owner.id, ()):
                wrong.append(f'{module.at(node)} calls {owner.id}.{node.func.attr}')
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in BLOCKING_CALLS.get(node.module or '', ()):
                    wrong.append(f'{module.at(node)} imports {node.module}.{alias.name}')
    assert not wrong, '\n'.join(wrong)


def loaded_after(*names):
    """What a new interpreter has loaded after importing the names: modules, and which failed and why."""
    program = (
        'import importlib, json, sys\n'
        'failed = {}\n'
        'for name in sys.argv[1:]:\n'
        '    try: importlib.import_module(name)\n'
        '    except Exception as exc: failed[name] = repr(exc)\n'
        'print(json.dumps([sorted(sys.modules), failed]))\n'
    )
    done = subprocess.run([sys.executable, '-W', 'error', '-c', program, *names], cwd=ROOT,
                          check=True, stdout=subprocess.PIPE, timeout=50)
    loaded, failed = json.loads(done.stdout)
    return set(loaded), failed


@pytest.mark.slow
def test_importing_the_package_takes_nothing_with_it():
    loaded, failed = loaded_after(PACKAGE)
    assert not failed
    assert {name for name in loaded if name.startswith(PACKAGE)} == {PACKAGE}
    loops, drivers = {'gevent', 'eventlet', 'greenlet'}, {'amqp', 'redis', 'msgpack', 'yaml', 'click', 'tqdm'}
    assert not loaded & (loops | drivers)


@pytest.mark.slow
def test_importing_every_module_starts_nothing():
    # Given every module but the two that are the loop
    names = [f'{PACKAGE}.{module}' if module.name else PACKAGE for module in modules()
             if not module.name.startswith('runtime.hub_') and not module.name.endswith('__main__')]
    # When a new interpreter imports them all
    loaded, failed = loaded_after(*names)
    # Then each could be imported, and no loop was chosen or made
    assert not failed
    assert not loaded & {'gevent', 'eventlet', 'greenmq.runtime.hub_gevent', 'greenmq.runtime.hub_eventlet'}
