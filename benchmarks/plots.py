"""Bars and lines as SVG text that takes its colours from the page."""
from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

from benchmarks.report import Bars, Lines

WIDTH, LABELS, RIGHT = 720, 150, 170
#: The colour of a client is the same in all plots.
CLIENTS = ('greenmq', 'kombu', 'kombu patched', 'py-amqp', 'pika', 'aio-pika', 'amqpstorm', 'librabbitmq (C)')
COLOURS = len(CLIENTS)


def number(value: float) -> str:
    """Three digits or so: 0.42, 17.3, 950, 12.5k, 1M."""
    if value >= 1e6:
        return f'{value / 1e6:.3g}M'
    if value >= 1e4:
        return f'{value / 1e3:.3g}k'
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def bars(plot: Bars) -> str:
    """Horizontal bars from 0, a whisker from the least to the most."""
    most = max((high for _, _, high in plot.values.values()), default=1) or 1
    step, space = 30, WIDTH - LABELS - RIGHT
    parts = []
    for line, (name, (median, low, high)) in enumerate(plot.values.items()):
        top, middle = line * step + 4, line * step + 15
        start, end = (LABELS + space * edge / most for edge in (low, high))
        parts += [
            f'<text x="{LABELS - 8}" y="{middle + 4}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect x="{LABELS}" y="{top}" width="{space * median / most:.1f}" height="22" rx="3" '
            f'class="{"own" if name.startswith("greenmq") else "other"}"/>',
            f'<path class="whisker" d="M{start:.1f} {middle}H{end:.1f}M{start:.1f} {middle - 4}v8'
            f'M{end:.1f} {middle - 4}v8"/>',
            f'<text x="{end + 8:.1f}" y="{middle + 4}">{number(median)} '
            f'<tspan class="faint">{number(low)}–{number(high)}</tspan></text>',
        ]
    return _svg(len(plot.values) * step + 4, plot.title, parts)


def lines(plot: Lines) -> str:
    """Lines over a linear or logarithmic x; y from 0, or logarithmic."""
    points = [point for line in plot.lines.values() for point in line]
    height, left, right, bottom = 300, 64, RIGHT, 250
    across, x_ticks = _scale([x for x, _ in points], plot.log_x, left, WIDTH - right)
    up, y_ticks = _scale([y for _, y in points] + ([] if plot.log_y else [0]), plot.log_y, bottom, 14)
    parts = [f'<path class="grid" d="M{left} {up(y):.1f}H{WIDTH - right}"/>'
             f'<text x="{left - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{number(y)}</text>'
             for y in y_ticks]
    parts += [f'<text x="{across(x):.1f}" y="{bottom + 20}" text-anchor="middle">{number(x)}</text>'
              for x in x_ticks]
    parts.append(f'<text class="faint" x="{(left + WIDTH - right) / 2}" y="{bottom + 40}" '
                 f'text-anchor="middle">{html.escape(plot.across)}</text>')
    ends: list[float] = []
    for line, (name, found) in sorted(enumerate(plot.lines.items()), key=lambda each: up(each[1][1][-1][1])):
        path = ' '.join(f'{across(x):.1f},{up(y):.1f}' for x, y in found)
        dots = ''.join(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3"><title>{html.escape(name)}: '
                       f'{number(y)} at {number(x)}</title></circle>' for x, y in found) \
            if len(found) < 20 else ''
        place = max(up(found[-1][1]), ends[-1] + 15 if ends else 0)
        ends.append(place)
        colour = CLIENTS.index(name) if name in CLIENTS else line % COLOURS
        parts.append(f'<g class="c{colour}"><polyline points="{path}"/>{dots}<text '
                     f'x="{across(found[-1][0]) + 8:.1f}" y="{place + 4:.1f}">{html.escape(name)}</text></g>')
    return _svg(max(height, int(max(ends, default=0)) + 10), plot.title, parts)


def _scale(values: Sequence[float], log: bool, start: float,
           end: float) -> tuple[Callable[[float], float], list[float]]:
    # From a value to its place between start and end, and the values that get a tick.
    if log:
        low, high = (math.log10(max(edge, 1e-9)) for edge in (min(values), max(values)))
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        ticks = [10.0 ** power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        if len(ticks) < 2:
            ticks = [10 ** low, 10 ** high]
        size = (end - start) / (high - low)
        return lambda value: start + size * (math.log10(max(value, 1e-9)) - low), ticks
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if (high - low) / (step * part) <= 6)
    ticks = [step * turn for turn in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
    return lambda value: start + (end - start) * (value - low) / (high - low), ticks


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(title)}">'
            + ''.join(parts) + '</svg>')
