"""What a run found: tables and plots in the order they came, printed at once and kept for a page."""
from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ''


@dataclass(frozen=True)
class Bars:
    """One bar for each name; `values` are (median, min, max)."""

    title: str
    unit: str
    values: Mapping[str, tuple[float, float, float]]
    note: str = ''


@dataclass(frozen=True)
class Lines:
    """One line for each name, through its points (x, y)."""

    title: str
    across: str
    up: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = True
    log_y: bool = False
    note: str = ''


@dataclass
class Report:
    parts: list[Table | Bars | Lines] = field(default_factory=list)


#: Of this process: a benchmark adds to it and need not know who will write it.
REPORT = Report()


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = '') -> None:
    """Print a table and keep it."""
    REPORT.parts.append(Table(title, head, rows, note))
    everything = [head, *rows]
    widths = [max(len(line[column]) for line in everything) for column in range(len(head))]
    print(f'{title}: {note}' if note else title)
    for line in everything:
        print('  ' + '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(flush=True)


def bars(title: str, unit: str, values: Mapping[str, tuple[float, float, float]], note: str = '') -> None:
    REPORT.parts.append(Bars(title, unit, values, note))


def lines(title: str, across: str, up: str, points: Mapping[str, Sequence[tuple[float, float]]],
          log_x: bool = True, log_y: bool = False, note: str = '') -> None:
    REPORT.parts.append(Lines(title, across, up, points, log_x, log_y, note))


def write_json(path: str, machine: str) -> None:
    parts = [{'kind': type(part).__name__.lower(), **asdict(part)} for part in REPORT.parts]
    found = {'machine': machine, 'when': time.strftime('%Y-%m-%d %H:%M:%S'), 'parts': parts}
    pathlib.Path(path).write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n')
