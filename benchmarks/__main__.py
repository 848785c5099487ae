"""`python -m benchmarks [NAME…] [--quick] [--peers …] [--json FILE] [--html FILE]`: measure, print, draw.

Without names all that exist run.
"""
from __future__ import annotations

import argparse
import ast
import importlib
import pathlib
import sys

from benchmarks import page, report, runner

#: What there is or will be, in this order; `import` is no name for a module.
SUITES = ('clients', 'amqp', 'redis', 'memory', 'pools', 'worker', 'import', 'scaling')
MODULES = {'import': 'imports'}


def available() -> dict[str, str]:
    """Name and first line of each benchmark that is there."""
    here = pathlib.Path(__file__).parent
    found = {}
    for name in SUITES:
        path = here / f'{MODULES.get(name, name)}.py'
        if path.exists():
            found[name] = (ast.get_docstring(ast.parse(path.read_text())) or '').partition('\n')[0]
    return found


def _parser() -> argparse.ArgumentParser:
    listed = '\n'.join(f'  {name:8} {available().get(name, "is not there yet")}' for name in SUITES)
    parser = argparse.ArgumentParser(prog='python -m benchmarks', epilog=listed,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help='which; without one all of them')
    parser.add_argument('--quick', action='store_true', help='fewer messages: what a change did, roughly')
    parser.add_argument('--rounds', type=int, default=5, help='of each peer, in turns (5)')
    parser.add_argument('--peers', nargs='+', default=(), help='only these AMQP clients')
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument('--html', metavar='FILE', help='write a page with plots')
    parser.add_argument('--amqp-url', metavar='URL', help='a RabbitMQ; without it one is started')
    parser.add_argument('--redis-url', metavar='URL', help='a Redis; without it one is started')
    return parser


def _run(name: str, options: argparse.Namespace) -> int:
    """One benchmark with those of the common options that it takes."""
    module = importlib.import_module(f'benchmarks.{MODULES.get(name, name)}')
    source = pathlib.Path(str(module.__file__)).read_text()
    given = ['--rounds', str(options.rounds)] if "'--rounds'" in source else []
    if options.quick:
        given += ['--quick'] if "'--quick'" in source else \
            ['--messages', '2000'] if "'--messages'" in source else []
    if options.peers and "'--peers'" in source:
        given += ['--peers', *options.peers]
    for url in ('amqp_url', 'redis_url'):
        option = f'--{url.replace("_", "-")}'
        if getattr(options, url) and (f"'{option}'" in source or 'brokers.add_options' in source):
            given += [option, getattr(options, url)]
    return int(module.main(given) or 0)


def main(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in SUITES]
    if unknown:
        parser.error(f'no benchmark {", ".join(unknown)}; there are {", ".join(available())}')
    missed = []
    for name in options.names or SUITES:
        if name not in available():
            print(f'{name}: not there yet\n')
        elif _run(name, options):
            missed.append(name)
        # After each, so that a run that is broken off has shown what it had.
        if options.json:
            report.write_json(options.json, runner.machine())
        if options.html:
            page.write(options.html, report.REPORT, runner.machine())
    if missed:
        print(f'targets missed in: {", ".join(missed)}')
    return int(bool(missed))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
