"""`python -m benchmarks [NAME…] [options]`: run the benchmarks named, or list them."""
from __future__ import annotations

import ast
import importlib
import pathlib
import sys

#: What is not a question of its own.
TOOLS = ('runner', 'peers')


def available() -> dict[str, str]:
    """Name and first line of each benchmark."""
    found = {}
    for path in sorted(pathlib.Path(__file__).parent.glob('*.py')):
        if not path.stem.startswith('_') and path.stem not in TOOLS:
            text = ast.get_docstring(ast.parse(path.read_text())) or ''
            found[path.stem] = text.partition('\n')[0]
    return found


def main(arguments: list[str]) -> int:
    names = [argument for argument in arguments if not argument.startswith('-') and argument in available()]
    options = [argument for argument in arguments if argument not in names]
    if not names:
        print('usage: python -m benchmarks NAME… [options]; `--help` after a name says which\n')
        for name, text in available().items():
            print(f'  {name:10} {text}')
        return 2
    return max(importlib.import_module(f'benchmarks.{name}').main(options) for name in names)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
