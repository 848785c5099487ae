"""The tests of a source distribution, run file by file through the alias and, where one fails, on kombu.

Bounded: a test that does not end is killed with its process, and the file goes on behind it.
"""
import contextlib
import fnmatch
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

from tests.others.recording import read

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / '.others'
PYTHON = FOLDER / 'venv/bin/python'

#: What the tests of both need, besides greenmq with its extras. No versions: the newest that go together.
NEEDS = ('pytest', 'pytest-freezer', 'pytest-subtests', 'pytest-click', 'pytest-order', 'pytest-timeout',
         'freezegun', 'hypothesis', 'Pyro4', 'kombu>=5,<6', 'celery[redis,gevent,eventlet]>=5,<6',
         'pytest-celery', 'sqlalchemy', 'pymongo', 'moto', 'kazoo', 'azure-storage-queue', 'azure-servicebus',
         'azure-identity', 'cryptography', 'pydantic', 'setuptools<81')
EXTRAS = 'msgpack,yaml,brotli,zstd,eventlet,hiredis,sqs'

#: Seconds: a test, importing a file, and all files of a suite. What is not reached then has failed.
TEST, START, WHOLE = 40, 120, 3600

#: Both name their classes like their functions, and bring markers of their own.
INI = '[pytest]\npython_classes = test_*\n'


class Suite:
    """One distribution's tests: in which folder, which files of them, and what server they want."""

    def __init__(self, package, folder, patterns=('**/test_*.py',), but=(), server=None):
        self.package, self.folder = package, folder
        self.patterns, self.but, self.environment = patterns, but, {}
        self.server = server or (lambda: contextlib.nullcontext({}))

    @property
    def source(self):
        return source_of(self.package)

    def versions(self):
        return [f'{each} {installed(each)}' for each in sorted({self.package, 'kombu'})]

    def prepare(self):
        unpack(self.package)

    def files(self):
        top = self.source / self.folder
        found = {path for pattern in self.patterns for path in top.glob(pattern)
                 if path.name.startswith('test_')}
        return sorted(path for path in found
                      if not any(fnmatch.fnmatch(str(path.relative_to(top)), each) for each in self.but))

    def run(self, only='', keyword='', on_kombu=False, known=lambda name: False):
        """Outcomes: name → 'passed', 'skipped' or why not; and which of the failures are kombu's too."""
        outcomes, alike, end = {}, set(), time.monotonic() + WHOLE
        with self.server() as server:
            self.environment.update(server)
            for file in self.files():
                if only not in str(file):
                    continue
                name = str(file.relative_to(self.source))
                if time.monotonic() > end:
                    outcomes[name] = f'not reached in {WHOLE} s'
                    continue
                began = time.monotonic()
                found = self.run_file(name, on_kombu, keyword)
                outcomes.update(found)
                bad = [each for each, why in found.items() if failed(why)]
                if not on_kombu and not all(map(known, bad)):
                    there = self.run_file(name, True, keyword)
                    alike.update(each for each in bad if failed(there.get(each, '')))
                print(f'{name}: {len(found) - len(bad)} of {len(found)}, {time.monotonic() - began:.0f} s',
                      flush=True)
        return outcomes, alike

    def run_file(self, name, on_kombu, keyword):
        record = FOLDER / f'{os.getpid()}.jsonl'
        record.unlink(missing_ok=True)
        environment = {**os.environ, **self.environment, 'GREENMQ_AS_KOMBU': '0' if on_kombu else '1',
                       'C_FORCE_ROOT': '1',  # or Celery refuses pickle to a container's only user
                       'TZ': 'UTC', 'RECORD': str(record), 'PYTHONPATH': str(HERE)}
        command = [PYTHON, '-m', 'pytest', '-q', '-c', FOLDER / 'pytest.ini', '--rootdir', self.source,
                   '-p', 'recording', '-p', 'no:rerunfailures', '-p', 'no:cacheprovider', '--tb', 'short',
                   name]
        if self.package != 'celery':
            command += ['-p', 'no:celery', '-p', 'no:pytest_celery']
        if keyword:
            command += ['-k', keyword]
        stopped = {}  # name of a test → why its process is no more
        with open(FOLDER / 'output.txt', 'ab') as output:
            while True:
                child = subprocess.Popen(command, cwd=self.source, env=environment, stdin=subprocess.DEVNULL,
                                         stdout=output, stderr=output, start_new_session=True)
                why = watch(child, record)
                began = [test for test, why in read(record).items() if why is None and test not in stopped]
                if why is None and not began:
                    break
                stopped.update(dict.fromkeys(began or [name], why or 'its process ended'))
                if not began:
                    break
        return {**read(record), **stopped}


def watch(child, record):
    """Wait for a run, which is killed when nothing is recorded for long: why, or None where it ended."""
    size, since = 0, time.monotonic()
    while child.poll() is None:
        time.sleep(0.2)
        now = record.stat().st_size if record.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        bound = TEST if size else START
        if time.monotonic() - since > bound:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(child.pid, signal.SIGABRT)  # pytest's faulthandler tells where it stood
                child.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f'did not end in {bound} s'
    return None


def source_of(package):
    return FOLDER / f'{package}-{installed(package)}'


def unpack(package):
    """The tests and examples of the version that is installed, whose own code must not lie in its way."""
    source = source_of(package)
    if not source.exists():
        name = f'{package}=={installed(package)}'
        pip('download', '--no-deps', '--no-binary', ':all:', '--dest', FOLDER, name)
        with tarfile.open(FOLDER / f'{source.name}.tar.gz') as archive:
            archive.extractall(FOLDER, members=[
                each for each in archive.getmembers()
                if each.name.startswith((f'{source.name}/t/', f'{source.name}/examples/'))])


def failed(why):
    return why not in ('passed', 'skipped')


def installed(package):
    """The version of a distribution in the environment of the suites."""
    name = package.replace('-', '_').replace('.', '_')
    found = list(FOLDER.glob(f'venv/lib/python*/site-packages/{name}-*.dist-info'))
    return found[0].name.removesuffix('.dist-info').rpartition('-')[2] if found else 'none'


def environment_of(afresh):
    """Make the environment, of the newest versions there are, if it is not there or `afresh`."""
    if afresh:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / 'pytest.ini').write_text(INI)
    if not PYTHON.exists():
        subprocess.run([sys.executable, '-m', 'venv', FOLDER / 'venv'], check=True)
        pip('install', '--editable', f'{ROOT}[{EXTRAS}]', *NEEDS)


def pip(*arguments):
    subprocess.run([PYTHON, '-m', 'pip', '--quiet', '--disable-pip-version-check', *arguments], check=True)
