"""What stands in a page to be copied works when it is copied: each block of Python and of commands is run."""
from __future__ import annotations

import doctest
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from tests.house.source import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.own_process]

BLOCK = re.compile(r'^\.\. code-block:: (\w+)\n((?: +:[^\n]*\n)*)\n((?:(?:    [^\n]*)?\n)+)', re.M)
PAGES = [ROOT / 'README.rst', *sorted((ROOT / 'docs').rglob('*.rst'))]

#: Page, and the start of a block that is not run → why.
NOT_RUN = {
    ('README.rst', '$ make demo'): 'the commands that run this very test',
    ('README.rst', '$ GREENMQ_AS_KOMBU=1'): 'your own application of Celery: tests/alias/test_celery.py',
    ('docs/celery.rst', 'from greenmq.messaging import ConfirmLater'): 'your own tasks: tests/alias',
}
#: Commands that go on until they are told to end.
DAEMONS = re.compile(r'greenmq worker |gunicorn |celery .*worker')
#: Commands that only look. Who reads types more slowly than a test: they are given the time.
LOOKS = re.compile(r'greenmq queues |curl ')
#: A broker on this machine, as a page writes it. The fixture with a real one's URL is named by the scheme.
BROKER = re.compile(r'\b(?!memory|file)(\w+)://(?:[\w:]+@)?localhost(?:[:/][\w/]*)?')
#: Other words of a page → the fixture, and its attribute, to be put in their place.
WORDS = {'/etc/ssl/our-ca.pem': 'certificates.ca'}


def blocks(page):
    """(language, text) of each block of a page, in order."""
    return [(language, textwrap.dedent(text).strip('\n') + '\n')
            for language, _, text in BLOCK.findall(page.read_text() + '\n')]


def name_of(page):
    return str(page.relative_to(ROOT))


class Copied:
    """A folder in which somebody saves the programs of a page and types its commands."""

    def __init__(self, folder, words):
        self._folder, self._words, self._running = folder, words, []
        path = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
        self._environment = {'PATH': path, 'HOME': str(folder), 'PYTHONPATH': str(ROOT)}

    def text(self, text):
        for word in sorted(self._words, key=len, reverse=True):
            text = text.replace(word, self._words[word])
        text = re.sub(r'127\.0\.0\.1:80\d\d', lambda found: self._port(found[0]), text)
        return text.replace('/tmp/greenmq', f'{self._folder}/greenmq')

    def _port(self, address):
        if address not in self._words:
            with socket.create_server(('127.0.0.1', 0)) as free:
                self._words[address] = '127.0.0.1:{1}'.format(*free.getsockname())
        return self._words[address]

    def save(self, name, text):
        (self._folder / name).write_text(text)

    def run(self, command, wanted=''):
        until = time.monotonic() + (20 if LOOKS.search(command) else 0)
        while True:
            done = subprocess.run(['bash', '-euc', command], cwd=self._folder, env=self._environment,
                                  text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
            assert done.returncode == 0, f'$ {command}\n{done.stdout}'
            if not wanted or same(wanted, done.stdout):
                return
            assert time.monotonic() < until, f'$ {command}\n{done.stdout}\nand not:\n{wanted}'
            time.sleep(0.2)

    def start(self, command, wanted=''):
        output = open(self._folder / f'output-{len(self._running)}', 'w+')
        process = subprocess.Popen(
            ['bash', '-euc', f'exec env {command}'], cwd=self._folder, env=self._environment, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True)
        self._running.append((command, wanted, output, process))
        for host, port in re.findall(r'(127\.0\.0\.1):(\d+)', command):
            while process.poll() is None:
                try:
                    with socket.create_connection((host, int(port)), 20) as client:
                        # An answer, not a connection: the kernel takes that before anybody serves.
                        client.sendall(b'GET / HTTP/1.0\r\n\r\n')
                        if client.recv(1):
                            break
                except OSError:
                    time.sleep(0.1)

    def end(self):
        """Each that runs for ever does so still, and ends in good order when it is told to."""
        time.sleep(1 if self._running else 0)
        for command, wanted, output, process in self._running:
            try:
                assert process.poll() is None, f'$ {command}\n{(output.seek(0), output.read())[1]}'
                process.send_signal(signal.SIGTERM)
                code = process.wait(20)
                output.seek(0)
                said = output.read()
                assert code == 0 and same(f'{wanted}...', said), f'$ {command}\n{said}'
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                output.close()


def commands(text):
    """(command, what it prints) of a block: lines that begin with ``$``, and those that follow each."""
    return [(command.split('  #')[0].strip(), wanted) for command, wanted in re.findall(
        r'^\$ (.*)\n((?:(?!\$ ).*\n)*)', text, re.M)]


def same(wanted, found):
    """Is that what the page shows? ``...`` is anything, and spaces do not count."""
    how = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(wanted, found, how)


def _value(request, fixture):
    name, _, attribute = fixture.partition('.')
    value = request.getfixturevalue(name)
    return getattr(value, attribute) if attribute else value


@pytest.mark.parametrize('page', [page for page in PAGES if any(
    language in ('python', 'console') for language, _ in blocks(page))], ids=name_of)
@pytest.mark.green_timeout(150)
def test_what_can_be_copied_runs(page, tmp_path, request):
    name, found = name_of(page), blocks(page)
    everything = ''.join(text for language, text in found if language in ('python', 'console'))
    words = {word: str(_value(request, fixture)) for word, fixture in WORDS.items() if word in everything}
    words.update({found[0]: _value(request, f'{found[1]}_url') for found in BROKER.finditer(everything)})
    copied = Copied(tmp_path, words)
    program = []
    try:
        for language, text in found:
            if any(name == of and text.startswith(start) for of, start in NOT_RUN):
                continue
            text = copied.text(text)
            if language == 'python':
                saved_as = re.match(r'# (\w+\.py)\n', text)
                if saved_as:
                    copied.save(saved_as[1], text)
                else:
                    program.append(text)
            elif language == 'console':
                for command, wanted in commands(text):
                    copied.start(command, wanted) if DAEMONS.search(command) else copied.run(command, wanted)
        if program:
            copied.save('page.py', '\n'.join(program))
            copied.run(f'{sys.executable} -W error::RuntimeWarning page.py')
    finally:
        copied.end()


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_what_is_no_program_can_be_read_by_its_parser(page):
    for language, text in blocks(page):
        if language == 'yaml':
            import yaml
            assert list(yaml.safe_load_all(text))
        elif language == 'json':
            json.loads(text)
        elif language == 'ini':
            import configparser
            parser = configparser.ConfigParser(strict=False, interpolation=None)
            parser.optionxform = str
            parser.read_string(text)
            assert parser.sections()
        else:
            assert language in ('python', 'console', 'text', 'sql', 'shell'), f'{name_of(page)}: {language}'


def test_no_block_hides_from_these_tests():
    for page in [*PAGES, *(ROOT / 'examples').rglob('*.rst')]:
        text = page.read_text()
        runs = re.findall(r'^ *\.\. (?:code|code-block|sourcecode):: *(?:python|console)\n', text, re.M)
        assert len(runs) == sum(language in ('python', 'console') for language, _ in blocks(page)), page
        assert re.findall(r'^(?!\.\. |   ).*::$', text, re.M) == [], page


def test_few_blocks_are_not_run():
    assert len(NOT_RUN) <= 5
    for of, start in NOT_RUN:
        assert any(text.startswith(start) for _, text in blocks(ROOT / of)), (of, start)
