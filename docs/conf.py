"""How the site is built: ``make docs``, then open ``docs/_build/html/index.html``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'docs')]

import greenmq  # noqa: E402

project = 'greenmq'
author = 'The greenmq authors'
copyright = author
release = version = greenmq.__version__

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'sphinx_click',
    'bars',
]
exclude_patterns = ['_build']
#: Names such as `type` stand in several classes; a plain mention of one is no link that is broken.
suppress_warnings = ['ref.python']

html_theme = 'furo'
pygments_dark_style = 'monokai'
html_title = f'greenmq {release}'
html_copy_source = False

copybutton_prompt_text = r'>>> |\.\.\. |\$ '
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
autodoc_default_options = {'members': True, 'undoc-members': False, 'show-inheritance': True}
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
linkcheck_ignore = [r'http://127\.0\.0\.1.*', r'http://localhost.*']

#: Lines of our docstrings that are no section of Napoleon's, each a paragraph of its own.
_LINES = re.compile(r'^(Switches|Source): ')
#: A promise by its number, as in (P25).
_PROMISE = re.compile(r'\((P\d+)\)')


def _as_paragraphs(app, what, name, obj, options, lines):
    """Give ``Switches:`` and ``Source:`` a paragraph and a bold name."""
    found = []
    for line in lines:
        if _LINES.match(line):
            found.append('')
            line = _LINES.sub(r'**\1**: ', line)
        found.append(_PROMISE.sub(r'(:doc:`\1 </guarantees>`)', line))
    lines[:] = found


def setup(app):
    app.connect('autodoc-process-docstring', _as_paragraphs, priority=100)
