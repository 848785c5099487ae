"""The examples in docstrings do what they show, and no example hides in a form that is not run."""
from __future__ import annotations

import ast
import doctest
import importlib

import pytest

import greenmq
from greenmq import pools
from tests.house.source import modules

HOW = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def docstrings(module):
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield getattr(node, 'name', ''), ast.get_docstring(node) or ''


WITH_EXAMPLES = [module for module in modules() if any('>>> ' in text for _, text in docstrings(module))]


@pytest.fixture
def pools_of_its_own():
    yield
    pools.reset()


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize('source', WITH_EXAMPLES, ids=str)
def test_examples_do_what_they_show(source, pools_of_its_own):
    module = importlib.import_module(f'greenmq.{source.name}' if source.name else 'greenmq')
    known = {public: getattr(greenmq, public) for public in greenmq.__all__}
    runner = doctest.DocTestRunner(optionflags=HOW)
    said = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=known):
        # Names of the module win over those of the package, as where the docstring stands.
        test.globs.update(vars(module))
        runner.run(test, out=said.append)
    assert runner.tries and not runner.failures, ''.join(said)


def test_the_names_that_people_begin_with_have_one():
    found = {name or str(module) for module in modules()
             for name, text in docstrings(module) if '>>> ' in text}
    assert found >= {
        'connection', 'pools', 'Exchange', 'Queue', 'Producer', 'Consumer', 'ConsumerMixin', 'SimpleQueue',
        'Broadcast', 'binding', 'subscribe'}


def test_no_example_is_in_a_form_that_is_not_run():
    hidden = {(str(module), name) for module in modules() for name, text in docstrings(module)
              if '::\n' in text}
    # Of the package it is a drawing.
    assert hidden == {('greenmq', '')}, 'write >>> before each line, so that it is run'
