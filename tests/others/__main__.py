"""`python -m tests.others [SUITE…] [--only PART]`, or `make others`: other people's tests through the alias.

Their source distributions are downloaded into `.others/`, never copied into this repository, and their tests
are run file by file in an environment of their own. Each failure must stand in `insides.txt`, with the reason
why it is none of greenmq's; what stands there and passes is told too. `oslo`, `nameko`, `beat` and `flower`
are programs on libraries that stand on kombu, see `applications`. Not for CI: it needs the network, and takes
half an hour.
"""
import argparse
import collections
import contextlib
import fnmatch
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree

from tests.others.applications import Application
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_server import Redis

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / '.others'
PYTHON = FOLDER / 'venv/bin/python'

#: What the tests of both need, besides greenmq with its extras.
NEEDS = ('pytest', 'pytest-timeout', 'pytest-freezer', 'pytest-subtests', 'pytest-click', 'pytest-order',
         'freezegun', 'hypothesis', 'Pyro4', 'celery[redis,gevent,eventlet]', 'pytest-celery', 'sqlalchemy',
         'pymongo', 'moto', 'cryptography', 'pydantic', 'setuptools<81')
SECONDS = {'test': 60, 'file': 900}

#: The files of kombu's own that are about what greenmq has: the insides of its transports and its event loop
#: are not among them.
KOMBU = ('test_*.py', 'transport/test_base.py', 'transport/test_memory.py', 'transport/test_transport.py',
         'transport/virtual/*.py', 'utils/test_*.py')
NOT_KOMBU = ('test_message.py', 'utils/test_amq_manager.py', 'utils/test_compat.py', 'utils/test_debug.py',
             'utils/test_eventio.py', 'utils/test_json.py', 'utils/test_limits.py')
#: Both name their classes like their functions, and bring markers of their own.
INI = '[pytest]\npython_classes = test_*\n'


class Suite:
    """One distribution's tests, and which files of them."""

    def __init__(self, package, version, folder, patterns=('**/test_*.py',), but=(), server=None):
        self.package, self.version, self.folder = package, version, folder
        self.patterns, self.but, self.environment = patterns, but, {}
        self.server = server or (lambda: contextlib.nullcontext({}))

    @property
    def source(self):
        return FOLDER / f'{self.package}-{self.version}'

    def files(self):
        top = self.source / self.folder
        found = {path for pattern in self.patterns for path in top.glob(pattern)
                 if path.name.startswith('test_')}
        return sorted(path for path in found
                      if not any(fnmatch.fnmatch(str(path.relative_to(top)), each) for each in self.but))


def prepare(suite):
    """Download and unpack what is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / 'pytest.ini').write_text(INI)
    if not PYTHON.exists():
        subprocess.run([sys.executable, '-m', 'venv', FOLDER / 'venv'], check=True)
        pip('install', '--editable', f'{ROOT}[msgpack,yaml,brotli,zstd,eventlet,hiredis]', *NEEDS)
    if isinstance(suite, Application):
        pip('install', *suite.needs)
    elif not suite.source.exists():
        name = f'{suite.package}=={suite.version}'
        pip('download', '--no-deps', '--no-binary', ':all:', '--dest', FOLDER, name)
        with tarfile.open(FOLDER / f'{suite.source.name}.tar.gz') as archive:
            # The tests only: their package must not lie in the way of the one that is installed.
            tests = [each for each in archive.getmembers() if each.name.startswith(f'{suite.source.name}/t/')]
            archive.extractall(FOLDER, members=tests)


def pip(*arguments):
    subprocess.run([PYTHON, '-m', 'pip', '--quiet', '--disable-pip-version-check', *arguments], check=True)


def run(suite, file, on_kombu, keyword):
    """What became of each test of a file: name → 'passed', 'skipped' or the failure's last line."""
    report = FOLDER / 'report.xml'
    report.unlink(missing_ok=True)
    switch = '0' if on_kombu else '1'
    environment = {**os.environ, **suite.environment, 'GREENMQ_AS_KOMBU': switch, 'TZ': 'UTC',
                   'C_FORCE_ROOT': '1'}  # or Celery refuses pickle to a container's only user
    name = str(file.relative_to(suite.source))
    command = [PYTHON, '-m', 'pytest', '-q', '-c', FOLDER / 'pytest.ini', '--rootdir', suite.source,
               '-p', 'no:rerunfailures', '-p', 'no:cacheprovider', '--tb', 'line',
               '--timeout', str(SECONDS['test']), '--junit-xml', report, name]
    if suite.package != 'celery':
        command += ['-p', 'no:celery', '-p', 'no:pytest_celery']
    if keyword:
        command += ['-k', keyword]
    with open(FOLDER / 'output.txt', 'ab') as output, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=suite.source, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                       stderr=output, timeout=SECONDS['file'], check=False)
    if not report.exists():
        return {name: 'did not end'}
    found = {}
    for case in xml.etree.ElementTree.parse(report).iter('testcase'):
        outcome = 'passed'
        for child in case:
            if child.tag in ('failure', 'error'):
                outcome = ' '.join((child.get('message') or child.text or 'failed').split())[:160]
            elif child.tag == 'skipped' and outcome == 'passed':
                outcome = 'skipped'
        # The module's dotted path, then the class: as pytest writes them on its command line.
        cls = case.get('classname', '').partition(file.stem)[2].lstrip('.')
        key = '::'.join(part for part in (name, cls, case.get('name')) if part)
        if outcome != 'passed' or key not in found:  # an error at the end of a test that passed counts
            found[key] = outcome
    return found


def excuses():
    """The patterns of `insides.txt`, each with its reason."""
    found = {}
    for line in (HERE / 'insides.txt').read_text().splitlines():
        pattern, _, reason = line.partition('  # ')
        if pattern.strip() and not line.startswith('#'):
            found[pattern.strip()] = reason.strip()
    return found


def excused(name, patterns):
    # Not fnmatch: names of parametrised tests have brackets.
    return next((each for each in patterns
                 if name == each or each.endswith('*') and name.startswith(each[:-1])), None)


def main(arguments):
    parser = argparse.ArgumentParser(prog='python -m tests.others')
    parser.add_argument('suites', nargs='*', metavar='SUITE',
                        help=f'of {", ".join(SUITES)}; kombu and celery without one')
    parser.add_argument('--only', default='', help='files whose path has this in it')
    parser.add_argument('-k', dest='keyword', default='', help="as pytest's")
    parser.add_argument('--on-kombu', action='store_true', help='the same tests on kombu itself, to compare')
    parser.add_argument('--afresh', action='store_true', help='download and install again')
    options = parser.parse_args(arguments)
    if options.afresh:
        shutil.rmtree(FOLDER, ignore_errors=True)
    unexplained = 0
    if unknown := [each for each in options.suites if each not in SUITES]:
        parser.error(f'no suite {", ".join(unknown)}')
    for name in options.suites or ('kombu', 'celery'):
        suite, outcomes = SUITES[name], {}
        prepare(suite)
        if isinstance(suite, Application):
            environment = {**os.environ, 'GREENMQ_AS_KOMBU': '0' if options.on_kombu else '1'}
            outcomes = suite.run(PYTHON, environment, FOLDER / 'output.txt')
        else:
            run_files(suite, options, outcomes)
        unexplained += tell(name, outcomes, excuses())
    return int(bool(unexplained))


def run_files(suite, options, outcomes):
    with suite.server() as server:
        suite.environment.update(server)
        for file in suite.files():
            if options.only in str(file):
                found = run(suite, file, options.on_kombu, options.keyword)
                outcomes.update(found)
                bad = sum(each not in ('passed', 'skipped') for each in found.values())
                print(f'{file.relative_to(suite.source)}: {len(found) - bad} of {len(found)}', flush=True)


@contextlib.contextmanager
def rabbitmq():
    with RabbitMQ() as server:
        yield {'RABBITMQ_HOST': '127.0.0.1', 'RABBITMQ_5672_TCP': str(server.port)}


@contextlib.contextmanager
def redis():
    with Redis(durable=False) as server:
        yield {'REDIS_HOST': '127.0.0.1', 'REDIS_6379_TCP': str(server.port)}


def amqp(scheme, vhost):
    """The URL of a server as a library wants it."""
    return lambda server: f'{scheme}://guest:guest@127.0.0.1:{server.port}{vhost}'


def tell(name, outcomes, known):
    """Print what a suite came to; how many failures stand nowhere."""
    counts = collections.Counter(
        each if each in ('passed', 'skipped') else 'failed' for each in outcomes.values())
    failed = {test: why for test, why in outcomes.items() if why not in ('passed', 'skipped')}
    without = {test: why for test, why in failed.items() if excused(test, known) is None}
    print(f'\n{name}: {counts["passed"]} passed, {counts["skipped"]} skipped, {counts["failed"]} failed of '
          f'{len(outcomes)}; {len(failed) - len(without)} of the failures are known')
    for test, why in without.items():
        print(f'  {test}\n      {why}')
    for pattern in known:
        touched = [test for test in outcomes if excused(test, [pattern])]
        if touched and not any(test in failed for test in touched):
            print(f'  passes, and stands in insides.txt: {pattern}')
    return len(without)


#: Django's own versions are not those of Celery: pip finds what fits.
SCHEDULERS = ('celery-redbeat', 'django-celery-beat', 'django-celery-results')
SUITES = {
    'kombu': Suite('kombu', '5.7.0', 't/unit', KOMBU, NOT_KOMBU),
    'kombu-amqp': Suite('kombu', '5.7.0', 't/integration', ('test_py_amqp.py',), server=rabbitmq),
    'kombu-redis': Suite('kombu', '5.7.0', 't/integration', ('test_redis.py',), server=redis),
    'celery': Suite('celery', '5.7.0', 't/unit'),
    'oslo': Application('oslo_messaging', ('oslo.messaging==18.3.1',), RabbitMQ, amqp('rabbit', '/')),
    'nameko': Application('nameko', ('nameko==2.14.1',), RabbitMQ, amqp('amqp', '//')),
    'beat': Application('beat', SCHEDULERS, Redis, Redis.url),
    'flower': Application('flower', ('flower==2.0.1',), RabbitMQ, amqp('amqp', '//')),
}


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
