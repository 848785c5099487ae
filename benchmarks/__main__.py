"""`python -m benchmarks [NAME…] [--quick] [--peers …] [--json FILE] [--html FILE]`: measure, print, draw.

Without names all run.
"""
from __future__ import annotations

import argparse
import importlib
import sys
import time
from types import ModuleType

from benchmarks import brokers, page, report, runner
from benchmarks import options as common

#: All there are, in this order; `import` can be no module's name.
SUITES = (
    'clients', 'amqp', 'redis', 'memory', 'stores', 'servers', 'cloud', 'pools', 'worker', 'celery', 'import',
    'scaling', 'footprint', 'claims',
)
COMMON = ('rounds', 'quick', 'peers', 'amqp_url', 'redis_url', 'kombu_python')


def module(name: str) -> ModuleType:
    return importlib.import_module(f'benchmarks.{"imports" if name == "import" else name}')


def described() -> dict[str, str]:
    """Name and first line of each."""
    return {name: (module(name).__doc__ or '').partition('\n')[0] for name in SUITES}


def main(arguments: list[str]) -> int:
    listed = '\n'.join(f'  {name:8} {text}' for name, text in described().items())
    parser = argparse.ArgumentParser(prog='python -m benchmarks', epilog=listed,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help='which; without one all of them')
    common.add(parser, COMMON, rounds=None)  # each has a number of its own, where none is given
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument('--html', metavar='FILE', help='write a page with plots')
    parser.add_argument('--strict', action='store_true', help='exit with 1 if a target was missed')
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in SUITES]
    if unknown:
        parser.error(f'no benchmark {", ".join(unknown)}; there are {", ".join(SUITES)}')
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a file grows while it is written
    missed, absent = [], []
    for name in options.names or SUITES:
        suite, begun = module(name), time.monotonic()
        try:
            if suite.main(common.given(options, tuple(each for each in COMMON if each in suite.OPTIONS))):
                missed.append(name)
        except brokers.Missing as reason:
            print(f'{name}: {reason}')
            absent.append(name)
        print(f'{name} took {time.monotonic() - begun:.0f} s\n')
        # After each, so that a run that is broken off has shown what it had.
        if options.json:
            report.write_json(options.json, runner.machine())
        if options.html:
            page.write(options.html, report.REPORT, runner.machine())
    if absent:
        print(f'not measured, or not all of it: {", ".join(absent)}')
    if missed:
        print(f'targets missed in: {", ".join(missed)}')
    return int(options.strict and bool(missed or absent))  # a slow machine is no error


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
