"""The options of the benchmarks: each names those it takes, and all spell and explain them alike."""
from __future__ import annotations

import argparse
from typing import Any

#: By name, as a benchmark's `OPTIONS` lists them.
KNOWN: dict[str, dict[str, Any]] = {
    'rounds': {'type': int, 'default': 5, 'metavar': 'N', 'help': 'of each peer, in turns (%(default)s)'},
    'messages': {'type': int, 'default': 20_000, 'metavar': 'N', 'help': 'in each round (%(default)s)'},
    'quick': {'action': 'store_true', 'help': 'a tenth of the messages: what a change did, roughly'},
    'folder': {'metavar': 'PATH',
               'help': 'where what is measured keeps its files: on another disk, or on /dev/shm on none'},
    'peers': {'nargs': '+', 'default': (), 'metavar': 'PEER', 'help': 'only these AMQP clients'},
    'amqp_url': {'metavar': 'URL', 'help': 'a RabbitMQ; without it one is started'},
    'redis_url': {'metavar': 'URL', 'help': 'a Redis; without it one is started'},
    'kombu_python': {'metavar': 'PATH',
                     'help': 'an interpreter that has kombu; without it one is made in .bench-venv'},
}


def add(parser: argparse.ArgumentParser, names: tuple[str, ...], **defaults: Any) -> None:
    for name in names:
        parser.add_argument(f'--{name.replace("_", "-")}', **KNOWN[name])
    parser.set_defaults(**defaults)


def parse(module: str, text: str | None, names: tuple[str, ...], arguments: list[str],
          **defaults: Any) -> argparse.Namespace:
    """What the command line of `python -m benchmarks.MODULE` says; `messages` is a tenth if it is quick."""
    parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{module}', description=text)
    add(parser, names, **defaults)
    options = parser.parse_args(arguments)
    if 'messages' in names and options.quick:
        options.messages //= 10
    return options


def given(options: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that were given, as a command line again."""
    words: list[str] = []
    for name in names:
        value = getattr(options, name, None)
        if value in (None, False, ()):
            continue
        words.append(f'--{name.replace("_", "-")}')
        if value is not True:
            words += map(str, value if isinstance(value, (list, tuple)) else [value])
    return words
