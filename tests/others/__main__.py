"""`python -m tests.others [SUITE…] [--only PART]`, or `make others`: other people's tests through the alias.

Their source distributions are downloaded into `.others/`, never copied into this repository, and their tests
are run file by file in an environment of their own, of the newest versions that pip gives. Each failure must
happen on kombu as well, or stand in `insides.txt` with the reason why it is none of greenmq's; what stands
there and passes is told too. `oslo`, `nameko`, `beat` and `flower`
are programs on libraries that stand on kombu, see `applications`. Not for CI: it needs the network, and takes
half an hour.
"""
import argparse
import collections
import contextlib
import os
import sys

from tests.others.applications import Application
from tests.others.suites import FOLDER, HERE, PYTHON, Suite, environment_of, failed
from tests.support.rabbitmq import RabbitMQ
from tests.support.redis_server import Redis

#: The files of kombu's own that are about what greenmq has: the insides of its transports and its event loop
#: are not among them.
KOMBU = ('test_*.py', 'transport/test_base.py', 'transport/test_memory.py', 'transport/test_transport.py',
         'transport/test_native_delayed_delivery.py', 'transport/virtual/*.py', 'utils/test_*.py')
NOT_KOMBU = ('test_message.py', 'utils/test_amq_manager.py', 'utils/test_compat.py', 'utils/test_debug.py',
             'utils/test_eventio.py', 'utils/test_json.py', 'utils/test_limits.py')

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
    if unknown := [each for each in options.suites if each not in SUITES]:
        parser.error(f'no suite {", ".join(unknown)}')
    environment_of(options.afresh)
    unexplained, known = 0, excuses()
    for name in options.suites or ('kombu', 'celery'):
        suite, alike = SUITES[name], set()
        suite.prepare()
        print(f'\n{name}: {", ".join(suite.versions())}', flush=True)
        if isinstance(suite, Application):
            environment = {**os.environ, 'GREENMQ_AS_KOMBU': '0' if options.on_kombu else '1'}
            outcomes = suite.run(PYTHON, environment, FOLDER / 'output.txt')
        else:
            outcomes, alike = suite.run(options.only, options.keyword, options.on_kombu,
                                        lambda test: excused(test, known) is not None)
        unexplained += tell(name, outcomes, alike, known)
    return int(bool(unexplained))


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


def tell(name, outcomes, alike, known):
    """Print what a suite came to; how many failures are explained by nothing."""
    counts = collections.Counter('failed' if failed(each) else each for each in outcomes.values())
    bad = {test: why for test, why in outcomes.items() if failed(why)}
    without = {test: why for test, why in bad.items() if test not in alike and excused(test, known) is None}
    print(f'\n{name}: {counts["passed"]} passed, {counts["skipped"]} skipped, {counts["failed"]} failed of '
          f'{len(outcomes)}; of the failures {len(alike)} are kombu\'s too, '
          f'{len(bad) - len(without) - len(alike)} stand in insides.txt')
    for test in sorted(alike):
        print(f'  fails on kombu too: {test}')
    for test, why in without.items():
        print(f'  {test}\n      {why}')
    for pattern in known:
        touched = [test for test in outcomes if excused(test, [pattern])]
        if touched and not any(test in bad for test in touched):
            print(f'  passes, and stands in insides.txt: {pattern}')
    return len(without)


#: Django's own versions are not those of Celery: pip finds what fits.
SCHEDULERS = ('celery-redbeat', 'django-celery-beat', 'django-celery-results')
SUITES = {
    'kombu': Suite('kombu', 't/unit', KOMBU, NOT_KOMBU),
    'kombu-amqp': Suite('kombu', 't/integration', ('test_py_amqp.py',), server=rabbitmq),
    'kombu-redis': Suite('kombu', 't/integration', ('test_redis.py',), server=redis),
    'celery': Suite('celery', 't/unit'),
    'examples': Application('examples', ('kombu',), RabbitMQ, amqp('amqp', '//'), 'kombu'),
    'oslo': Application('oslo_messaging', ('oslo.messaging',), RabbitMQ, amqp('rabbit', '/')),
    'nameko': Application('nameko', ('nameko',), RabbitMQ, amqp('amqp', '//')),
    'beat': Application('beat', SCHEDULERS, Redis, Redis.url),
    'flower': Application('flower', ('flower',), RabbitMQ, amqp('amqp', '//')),
}


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
