"""The report as one HTML file that needs nothing else, in light and dark."""
from __future__ import annotations

import html
import pathlib
import time

from benchmarks import plots
from benchmarks.report import Bars, Lines, Report, Table

STYLE = '''
:root { color-scheme: light dark; --ground: #fbfbf9; --ink: #1d2521; --faint: #68736d; --line: #dde2de;
  --own: #15803d; --other: #a8b3ad; --bad: #b42318;
  --c0: #15803d; --c1: #b45309; --c2: #1d4ed8; --c3: #a21caf; --c4: #0e7490; --c5: #be123c; --c6: #4d5d53;
  --c7: #6d28d9; }
@media (prefers-color-scheme: dark) { :root { --ground: #141816; --ink: #e3e9e5; --faint: #93a099;
  --line: #2c3531; --own: #4ade80; --other: #5d6a63; --bad: #ff8a7a;
  --c0: #4ade80; --c1: #fbbf24; --c2: #7aa9ff; --c3: #f0abfc; --c4: #67e8f9; --c5: #fda4af; --c6: #b6c2bb;
  --c7: #c4b5fd; } }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.2rem 4rem; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.05rem; margin: 2.4rem 0 .3rem }
p { margin: .2rem 0 .8rem; color: var(--faint); max-width: 46rem } .wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px }
td, th { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap } th { font-weight: 600 }
.bad { color: var(--bad); font-weight: 600 } .good { color: var(--own) }
svg { width: 100%; max-width: 52rem; height: auto; font: 12px system-ui, sans-serif }
svg text { fill: var(--ink) } svg .faint { fill: var(--faint) } .own { fill: var(--own) }
.other { fill: var(--other) } .whisker { stroke: var(--ink); stroke-width: 1.2; fill: none }
.grid { stroke: var(--line); fill: none } polyline { fill: none; stroke-width: 2 }
''' + '\n'.join(f'.c{turn} polyline {{ stroke: var(--c{turn}) }} .c{turn} circle, svg .c{turn} text '
                f'{{ fill: var(--c{turn}) }}' for turn in range(plots.COLOURS))


def write(path: str, report: Report, machine: str) -> None:
    parts = ''.join(_part(part) for part in report.parts)
    pathlib.Path(path).write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>greenmq: benchmarks</title><style>{STYLE}</style><h1>greenmq: benchmarks</h1>'
        f'<p>{html.escape(machine)}; {time.strftime("%Y-%m-%d %H:%M")}. A figure is the median of '
        'rounds in fresh processes, with the least and the most. Compare figures of one run only.</p>'
        f'{parts}</html>\n')


def _part(part: Table | Bars | Lines) -> str:
    unit = part.unit if isinstance(part, Bars) else part.up if isinstance(part, Lines) else ''
    title = html.escape(f'{part.title}, {unit}' if unit else part.title)
    drawn = _table(part) if isinstance(part, Table) else \
        plots.bars(part) if isinstance(part, Bars) else plots.lines(part)
    note = f'<p>{html.escape(part.note)}</p>' if part.note else ''
    return f'<section><h2>{title}</h2>{note}<div class="wide">{drawn}</div></section>'


def _table(part: Table) -> str:
    head = ''.join(f'<th>{html.escape(cell)}</th>' for cell in part.head)
    rows = ''.join('<tr>' + ''.join(_cell(cell) for cell in row) + '</tr>' for row in part.rows)
    return f'<table><tr>{head}</tr>{rows}</table>'


def _cell(text: str) -> str:
    kind = {'met': ' class="good"', 'NOT MET': ' class="bad"'}.get(text, '')
    return f'<td{kind}>{html.escape(text)}</td>'
