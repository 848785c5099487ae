"""The package as text: its modules, parsed once, and what each of them imports."""

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = 'greenmq'


@dataclass(frozen=True)
class Import:
    """One imported module, and where the statement stands."""

    target: str             # dotted, absolute: 'greenmq.core.retry', 'amqp.exceptions'
    line: int
    in_function: bool
    only_for_hints: bool    # below `if TYPE_CHECKING:`


@dataclass(eq=False)
class Module:
    """One file of the package."""

    name: str               # below the package: 'core.retry'; the package itself is ''
    path: Path

    def __str__(self):
        return self.name or PACKAGE

    @functools.cached_property
    def text(self):
        return self.path.read_text(encoding='utf-8')

    @functools.cached_property
    def lines(self):
        return self.text.splitlines()

    @functools.cached_property
    def tree(self):
        return ast.parse(self.text, str(self.path))

    @functools.cached_property
    def imports(self):
        return list(walk_imports(self))

    def at(self, node_or_line):
        line = getattr(node_or_line, 'lineno', node_or_line)
        return f'{self.path.relative_to(ROOT)}:{line}'


def walk_imports(module):
    def visit(node, in_function, hints):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.dump(child.test):
                for statement in child.body:
                    yield from visit(ast.Module([statement], []), in_function, True)
                for statement in child.orelse:
                    yield from visit(ast.Module([statement], []), in_function, hints)
                continue
            for target in targets(module, child):
                yield Import(target, child.lineno, in_function, hints)
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from visit(child, in_function or function, hints)

    return visit(module.tree, False, False)


def targets(module, node):
    """The modules that an import statement names, made absolute."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ''
    if node.level:
        here = f'{PACKAGE}.{module.name}'.rstrip('.').split('.')
        is_package = module.path.name == '__init__.py'
        here = here[:len(here) - node.level + is_package]
        base = '.'.join([*here, base] if base else here)
    if base.split('.')[0] != PACKAGE:
        return [base]
    # `from greenmq import events` imports the module events, `from greenmq.events import emit` a name of it.
    below = base[len(PACKAGE) + 1:]
    known = names()
    found = [f'{base}.{alias.name}' for alias in node.names if f'{below}.{alias.name}'.lstrip('.') in known]
    return found if len(found) == len(node.names) else [*found, base]


@functools.cache
def names():
    return frozenset(
        '.'.join(path.relative_to(ROOT / PACKAGE).with_suffix('').parts).removesuffix('__init__').rstrip('.')
        for path in (ROOT / PACKAGE).rglob('*.py'))


@functools.cache
def modules():
    """Every module of the package, in order."""
    found = []
    for name in sorted(names()):
        stem = (ROOT / PACKAGE).joinpath(*name.split('.')) if name else ROOT / PACKAGE
        path = stem / '__init__.py' if stem.is_dir() else stem.with_suffix('.py')
        found.append(Module(name, path))
    return found


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
