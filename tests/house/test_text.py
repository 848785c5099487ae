"""What every file must say, and must not: docstrings, sizes, swallowed errors, marks left behind."""

import ast
import re

import pytest

from tests.compat.table import TABLE
from tests.house.source import PACKAGE, ROOT, functions, modules

MODULE_LINES = 600
#: A file with one object may be as long as that: test_objects holds the object to its width, and nobody is
#: to cut it into bases for the sake of a file.
OF_ONE_OBJECT = {'connection': 800}
FUNCTION_LINES = 60         # of code; the rule is 15, with another look at 40
CLASS_LINES = 300

TEXT_FILES = ('*.py', '*.rst', '*.cfg', '*.txt', '*.toml', '*.sh', 'Makefile', 'LICENSE', '.gitignore')
TOP = (PACKAGE, 'tests', 'docs', 'examples', 'benchmarks', '.ci')

# Written so that this file does not contain what it looks for.
LEFT_BEHIND = re.compile(r'\b(TOD[O]|FIXM[E]|XX[X])\b')
SOMEBODYS_MACHINE = re.compile(r'''(?<![\w.])(/wor[k]/|/hom[e]/\w|/User[s]/\w|/roo[t]/)|\.\./share[d]''')


def text_files():
    found = {path for pattern in TEXT_FILES for path in ROOT.glob(pattern)}
    for top in TOP:
        found |= {path for pattern in (*TEXT_FILES, 'run', 'venv', 'servers')
                  for path in (ROOT / top).rglob(pattern)}
    return sorted(path for path in found if path.is_file())


def documented(module):
    """Classes and functions that a caller may import from the module, as (name, node)."""
    recorded = TABLE['modules'].get(module.name, {})
    wanted = {*recorded.get('classes', ()), *recorded.get('functions', ())}
    return [node for node in module.tree.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in wanted]


def of_kombu():
    return [module for module in modules() if module.name in TABLE['modules']]


@pytest.mark.parametrize('module', modules(), ids=str)
class TestModule:

    def test_opens_with_a_sentence(self, module):
        assert ast.get_docstring(module.tree), f'{module}: says nothing about itself'

    def test_is_no_longer_than_a_reader_can_bear(self, module):
        most = OF_ONE_OBJECT.get(module.name, MODULE_LINES)
        assert len(module.lines) <= most, f'{module} is {len(module.lines)} lines long'

    def test_functions_and_classes_are_short(self, module):
        wrong = [f'{module.at(node)} {node.name} has {size} lines of code'
                 for node in ast.walk(module.tree) for size in [code_lines(node, module)]
                 if size > (CLASS_LINES * 2 if isinstance(node, ast.ClassDef) else FUNCTION_LINES)]
        assert not wrong, '\n'.join(wrong)

    def test_swallows_no_error_without_saying_why(self, module):
        wrong = []
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                silent = all(isinstance(statement, ast.Pass) for statement in node.body)
                said = '#' in ''.join(module.lines[node.lineno - 1:node.end_lineno])
                if node.type is None or silent and not said:
                    wrong.append(module.at(node))
        assert not wrong, '\n'.join(wrong)

    def test_hints_are_on_every_signature(self, module):
        wrong = [f'{module.at(node)} {node.name}' for node in functions(module.tree) if node.returns is None]
        assert not wrong, '\n'.join(wrong)


def code_lines(node, module):
    """Lines of a class or function that are neither docstring, comment nor empty; 0 for anything else."""
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return 0
    skipped = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant):
            skipped.update(range(inner.lineno, inner.end_lineno + 1))
    lines = (line for line in range(node.lineno, node.end_lineno + 1) if line not in skipped)
    return sum(1 for line in lines if module.lines[line - 1].strip().partition('#')[0])


@pytest.mark.parametrize('module', of_kombu(), ids=str)
def test_public_names_are_documented(module):
    wrong = [f'{module.at(node)} {node.name}' for node in documented(module) if not ast.get_docstring(node)]
    assert not wrong, '\n'.join(wrong)


def test_what_a_docstring_may_leave_out_is_stated_once():
    defaults = ast.get_docstring(next(module for module in modules() if not module.name).tree)
    assert 'Switches:' in defaults and 'Source:' in defaults


@pytest.mark.parametrize('what', [LEFT_BEHIND, SOMEBODYS_MACHINE], ids=['marks', 'machines'])
def test_no_file_holds_what_belongs_to_a_desk(what):
    wrong = [f'{path.relative_to(ROOT)}:{number} {line.strip()}' for path in text_files()
             for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
             if what.search(line)]
    assert not wrong, '\n'.join(wrong)
