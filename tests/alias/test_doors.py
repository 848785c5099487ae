"""The doors outside a program: the variable, `greenmq run`, the marker; however a process is started."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig

import pytest

from greenmq.alias import doors
from tests.alias.child import PTH, environ, need_the_pth, python
from tests.house.source import ROOT
from tests.support import process

pytestmark = [pytest.mark.own_process, pytest.mark.slow]

SAYS = 'import kombu; print(kombu.__class__.__name__)'


@pytest.fixture(autouse=True, scope='module')
def pth():
    need_the_pth()


def run(*command, code=0, env=None):
    """Exit code checked; what a command wrote to stdout, and to stderr."""
    done = subprocess.run(command, env=env or environ(None), capture_output=True, text=True, timeout=50,
                          cwd='/')
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize('options', [(), ('-I',), ('-E',), ('-P',), ('-O',)])
def test_the_variable_holds_under_each_option_of_the_interpreter(options):
    if options == ('-P',) and sys.version_info < (3, 11):
        pytest.skip('-P came with Python 3.11')
    assert python(SAYS, options=options) == 'Kombu\n'


@pytest.mark.parametrize('word, is_on', [
    ('1', True), ('true', True), ('Yes', True), ('on', True), ('0', False), ('false', False), ('off', False),
    ('', False),
])
def test_the_words_of_the_variable(word, is_on):
    assert python(SAYS, switch=word) == ('Kombu\n' if is_on else 'module\n')


def test_a_word_that_means_nothing_is_told_and_changes_nothing():
    out, err = run(sys.executable, '-c', SAYS, env=environ('perhaps'))
    assert out == 'module\n'
    told = "GREENMQ_AS_KOMBU='perhaps' is none of 1, true, yes, on, verbose, 0, false, no, off"
    assert err.count(told) == 1


def test_what_a_process_starts_has_it_too(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text('''
import multiprocessing, os, subprocess, sys, kombu

def said(queue):
    import kombu
    queue.put(kombu.__class__.__name__)

if __name__ == '__main__':
    print(kombu.__class__.__name__)
    for method in ('spawn', 'forkserver', 'fork'):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=said, args=(queue,))
        child.start()
        print(method, queue.get(timeout=20))
        child.join()
    sys.stdout.flush()
    subprocess.run([sys.executable, '-c', 'import kombu; print(kombu.__class__.__name__)'], check=True)
    os.execv(sys.executable, [sys.executable, '-c', 'import kombu; print("exec", kombu.__class__.__name__)'])
''')
    out, _ = run(sys.executable, str(program), env=environ())
    assert out.splitlines() == [
        'Kombu', 'spawn Kombu', 'forkserver Kombu', 'fork Kombu', 'Kombu', 'exec Kombu']


def test_run_sets_the_variable_and_tells_what_it_replaced():
    greenmq = os.path.join(os.path.dirname(sys.executable), 'greenmq')
    program = 'import kombu.log; print(kombu.__name__)'
    out, err = run(greenmq, 'run', '-v', sys.executable, '-c', program, '-v')
    assert out == 'kombu\n'
    assert err.splitlines() == ['greenmq: kombu is greenmq', 'greenmq: kombu.log is greenmq.log']
    out, _ = run(sys.executable, '-m', 'greenmq.alias', sys.executable, '-c', SAYS)
    assert out == 'Kombu\n'
    _, err = run(greenmq, 'run', 'no-such-program', code=2)
    assert 'no-such-program' in err


def test_run_fails_loudly_where_the_pth_is_not_read(tmp_path):
    # Given an interpreter that has no greenmq in its site-packages, though a path leads to it
    venv(tmp_path)
    there = tmp_path / 'bin/python'
    _, err = run(sys.executable, '-m', 'greenmq.cli', 'run', str(there), '-c', SAYS, code=1)
    assert f'{there} does not process {PTH}' in err and 'greenmq.alias.install() works without' in err


def test_the_interpreter_of_a_command(tmp_path):
    def script(first):
        path = tmp_path / 'script'
        path.write_text(f'{first}\nimport sys\n')
        return doors.interpreter_of(str(path))

    assert script(f'#!{sys.executable}') == sys.executable
    assert script(f'#!/bin/sh\n\'\'\'exec\' "{sys.executable}" "$0" "$@"\n\' \'\'\'') == sys.executable
    assert 'python' in script('#!/usr/bin/env python3')
    assert script('#!/bin/bash') == sys.executable
    assert doors.interpreter_of('/usr/bin/python3') == '/usr/bin/python3'


def venv(path, *wheels):
    """A fresh environment without greenmq; the rest comes by a path from ours, whose .pth are not read."""
    run(sys.executable, '-m', 'venv', '--without-pip', str(path))
    site = path / f'lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages'
    for wheel in wheels:
        run(sys.executable, '-m', 'pip', '--python', str(path / 'bin/python'), 'install', '--quiet',
            '--no-deps', '--no-index', '--disable-pip-version-check', str(wheel))
    (site / 'rest.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return site


def build(folder, kind):
    """A wheel, or an editable one, made from a copy of the sources."""
    source = folder / 'source'
    copy(source)
    program = f'''
import os, sys
os.chdir(sys.argv[1])
from setuptools import build_meta
print(build_meta.{kind}(sys.argv[2]))
'''
    out, _ = run(sys.executable, '-c', program, str(source), str(folder))
    return folder / out.splitlines()[-1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize('kind', ['build_wheel', 'build_editable'])
def test_a_wheel_brings_the_switch_and_uninstalling_takes_it_away(tmp_path, kind):
    # Given a fresh environment into which the wheel is installed
    site = venv(tmp_path / 'env', build(tmp_path, kind))
    there = str(tmp_path / 'env/bin/python')
    greenmq = str(tmp_path / 'env/bin/greenmq')
    assert (site / PTH).is_file() and (site / 'greenmq-as-kombu.start').is_file()
    # Then it changes nothing by itself, and the variable switches it on
    assert run(there, '-c', SAYS)[0] == 'module\n'
    assert run(there, '-c', SAYS, env=environ())[0] == 'Kombu\n'
    out, _ = run(there, '-c', 'import greenmq; print(greenmq.__file__)')
    assert out.startswith(str(site) if kind == 'build_wheel' else str(tmp_path / 'source'))
    # And the marker does so without a variable, which overrules it
    assert run(greenmq, 'kombu', 'on')[0] == f'on: {site}/greenmq-as-kombu.on\n'
    assert run(there, '-I', '-c', SAYS)[0] == 'Kombu\n'
    assert run(there, '-c', SAYS, env=environ('0'))[0] == 'module\n'
    told, _ = run(greenmq, 'kombu', 'status')
    assert f'in this process: on, by the marker {site}/greenmq-as-kombu.on\n' in told
    assert f"stands in its place, by the marker {site}" in run(greenmq, 'doctor')[0]
    assert run(greenmq, 'kombu', 'off')[0] == f'off: removed {site}/greenmq-as-kombu.on\n'
    assert run(greenmq, 'kombu', 'off')[0] == 'off: there was no marker\n'
    assert run(there, '-c', SAYS)[0] == 'module\n'
    # And once it is uninstalled nothing of it is left, whatever the environment says
    run(sys.executable, '-m', 'pip', '--python', there, 'uninstall', '--quiet', '--yes', 'greenmq')
    assert not [path.name for path in site.iterdir() if 'greenmq' in path.name]
    (site / 'greenmq-as-kombu.on').touch()
    assert run(there, '-c', SAYS, env=environ()) == ('module\n', '')


def copy(target):
    """The sources as a build sees them: without what earlier builds left."""
    target.mkdir()
    for name in ('setup.py', 'setup.cfg', 'MANIFEST.in', 'README.rst', 'LICENSE', 'greenmq_as_kombu.py',
                 PTH, 'greenmq-as-kombu.start'):
        shutil.copy(ROOT / name, target)
    shutil.copytree(ROOT / 'greenmq', target / 'greenmq', ignore=shutil.ignore_patterns('__pycache__'))


def test_the_entry_point_of_the_start_file_can_be_called():
    from pkgutil import resolve_name

    lines = (ROOT / 'greenmq-as-kombu.start').read_text().splitlines()
    assert [callable(resolve_name(line)) for line in lines if line and not line.startswith('#')] == [True]


def test_doctor_tells_of_a_variable_that_did_nothing():
    out, _ = run(sys.executable, '-S', '-c', f'''
import sys
sys.path[:] += {[path for path in sys.path if path]!r}
from greenmq.diagnosis import doctor
diagnosis = doctor()
print(bool(diagnosis), *map(str, diagnosis.findings), sep="\\n")
''', env=environ())
    assert out.startswith('False\n') and 'GREENMQ_AS_KOMBU=1 is set, and kombu is kombu' in out


def test_gunicorn_that_preloads_its_application(tmp_path):
    (tmp_path / 'web.py').write_text('''
import kombu

def app(environ, start_response):
    start_response('200 OK', [])
    return [kombu.__class__.__name__.encode()]
''')
    port, = process.free_ports(1)
    log = tmp_path / 'log'
    with open(log, 'w') as file:
        command = ['-m', 'gunicorn', '--preload', '-k', 'gevent', '-w', '2', '--graceful-timeout', '2']
        server = process.popen([sys.executable, *command, '-b', f'127.0.0.1:{port}', 'web:app'],
                               cwd=tmp_path, env=environ(), stderr=file)
        try:
            said = process.wait_until(lambda: fetched(port), 20, 'gunicorn answers')
        finally:
            server.terminate()
            server.wait(20)
    assert said == 'Kombu', log.read_text()


def fetched(port):
    try:
        with socket.create_connection(('127.0.0.1', port), 2) as sock:
            sock.sendall(b'GET / HTTP/1.0\r\n\r\n')
            answer = b''
            while part := sock.recv(4096):
                answer += part
    except OSError:
        return None
    return answer.rpartition(b'\r\n\r\n')[2].decode() or None
