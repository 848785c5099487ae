"""A directive that draws a column of a table as bars: the figures stand in the text once, and the plot follows them.

::

    .. bars:: ../benchmarks/README.rst
       :table: client
       :column: publish
       :unit: messages a second

The table is the first one in that file whose head begins with the word `table`; of each cell the first number counts, and
rows without one are left out. Lengths are in the colours of the theme, so they are right in light and in dark.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive, directives

NUMBER = re.compile(r'\d+(?:,\d{3})*(?:\.\d+)?')
ROW = ('<div style="display:flex;gap:.5rem;align-items:center;margin:.15rem 0">'
       '<span style="flex:0 0 9.5rem;font-size:.875rem">{name}</span>'
       '<span style="flex:1 1 auto"><span style="display:inline-block;height:.9rem;vertical-align:middle;'
       'background:var(--color-brand-primary);opacity:{opacity};width:{width:.1f}%"></span></span>'
       '<span style="flex:0 0 4.5rem;text-align:right;font-size:.875rem">{figure}</span></div>')


def rows_of(text, table):
    """The rows of a simple table as lists of cells, its head first."""
    found = re.search(rf'^((?:=+ +)+=+)\n{re.escape(table)} .*\n\1\n(?:.*\n)+?\1$', text, re.M)
    if not found:
        raise ValueError(f'no table whose head begins with {table!r}')
    lines = found[0].splitlines()
    starts = [column.start() for column in re.finditer('=+', lines[0])]
    ends = [*starts[1:], None]
    return [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
            for line in (lines[1], *lines[3:-1])]


class Bars(Directive):
    """See the module."""

    required_arguments = 1
    option_spec = {'table': directives.unchanged_required, 'column': directives.unchanged_required,
                   'unit': directives.unchanged}

    def run(self):
        document = self.state.document.settings.env
        source = (Path(document.doc2path(document.docname)).parent / self.arguments[0]).resolve()
        document.note_dependency(str(source))
        head, *rows = rows_of(source.read_text(), self.options['table'])
        column = head.index(self.options['column'])
        figures = [(row[0], found[0]) for row in rows if (found := NUMBER.match(row[column]))]
        most = max(float(figure.replace(',', '')) for _, figure in figures)
        title = f'{self.options["column"]}: {self.options.get("unit", "")}'.rstrip(': ')
        drawn = ''.join(
            ROW.format(name=html.escape(name), figure=figure, width=100 * float(figure.replace(',', '')) / most,
                       opacity=1 if name.startswith('greenmq') else 0.45)
            for name, figure in figures)
        label = html.escape(title)
        return [nodes.raw('', f'<figure role="img" aria-label="{label}" style="margin:1rem 0 1.5rem">'
                              f'<figcaption><b>{label}</b></figcaption>{drawn}</figure>', format='html')]


def setup(app):
    app.add_directive('bars', Bars)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
