"""Runs a probe for each peer in a process of its own, in turns, and prints medians beside targets.

In turns (A B A B …), because a machine that slows down in the middle would otherwise speak for one side.
"""
from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from benchmarks import report
from benchmarks.peers import ROOT, Peer

#: Figures by name; a distribution is a list of them.
Result = dict[str, Any]


def rounds(peers: Sequence[Peer], probe: str, arguments: Sequence[str] | Mapping[str, Sequence[str]],
           count: int) -> dict[str, list[Result]]:
    """`count` results of `python -m PROBE PACKAGE ARGUMENTS…` for each peer, by its label.

    A mapping gives each peer arguments of its own: who is much slower would keep the others waiting.
    """
    each = arguments if isinstance(arguments, Mapping) else {peer.label: arguments for peer in peers}
    results: dict[str, list[Result]] = {peer.label: [] for peer in peers}
    with progress(count * len(peers), ' '.join([probe.rpartition('.')[2], *each[peers[0].label]])) as bar:
        for _ in range(count):
            for peer in peers:
                results[peer.label].append(once(peer, probe, each[peer.label]))
                bar.update()
    return results


class Bar(tqdm):  # type: ignore[type-arg]
    """Without the thread that redraws a slow bar: it would run beside what is measured."""

    monitor_interval = 0


def progress(total: int, what: str) -> Bar:
    """A bar on a terminal, nothing elsewhere."""
    return Bar(total=total, desc=what[:40], unit='run', leave=False, disable=None)


def once(peer: Peer, probe: str, arguments: Sequence[str]) -> Result:
    """The result of one run of a probe, in a process of its own."""
    done = subprocess.run([*peer.command(probe), *arguments], cwd=ROOT, check=False, capture_output=True,
                          text=True)
    if done.returncode:
        raise SystemExit(f'{probe} {peer.label} {" ".join(arguments)} failed:\n{done.stderr}')
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass(frozen=True)
class Figure:
    """What one peer needs, over all rounds."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, results: Sequence[Result], name: str) -> Figure:
        return cls(tuple(result[name] for result in results))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f'{_short(self.median)} [{_short(min(self.values))}–{_short(max(self.values))}]'


@dataclass(frozen=True)
class Row:
    """One line of the table: both figures, their ratio, and whether the target is met."""

    what: str
    ours: Figure
    theirs: Figure
    target: str = ''
    met: Callable[[Row], bool] | None = None

    @property
    def ratio(self) -> float:
        return self.ours.median / self.theirs.median if self.theirs.median else float('inf')

    @property
    def verdict(self) -> str:
        return '' if self.met is None else 'met' if self.met(self) else 'NOT MET'

    def cells(self) -> tuple[str, ...]:
        return (self.what, str(self.ours), str(self.theirs), f'{self.ratio:.2f}', self.target, self.verdict)


def at_most(limit: float) -> Callable[[Row], bool]:
    return lambda row: row.ours.median <= limit


def at_least(limit: float) -> Callable[[Row], bool]:
    return lambda row: row.ours.median >= limit


def at_least_ratio(limit: float) -> Callable[[Row], bool]:
    return lambda row: row.ratio >= limit


def at_most_ratio(limit: float) -> Callable[[Row], bool]:
    return lambda row: row.ratio <= limit


def below(limit: float) -> Callable[[Row], bool]:
    return lambda row: row.ours.median < limit


def show(title: str, peers: Sequence[Peer], rows: Sequence[Row], count: int) -> int:
    """Print the table; 0 if every target is met, else 1."""
    head = ('', *(f'{peer.label} {peer.version()}' for peer in peers), 'ratio', 'target', '')
    note = f'median [min–max] of {count} rounds, each in a fresh process, in turns; {machine()}'
    report.table(title, head, [row.cells() for row in rows], note)
    return int(any(row.verdict == 'NOT MET' for row in rows))


def machine() -> str:
    load = os.getloadavg()[0]
    return (f'{_cpu()} × {os.cpu_count()}, {platform.system()} {platform.release()}, '
            f'{platform.python_implementation()} {platform.python_version()}, load {load:.1f} at the end')


def _cpu() -> str:
    try:
        with open('/proc/cpuinfo') as info:
            names = [line.partition(':')[2].strip() for line in info if line.startswith('model name')]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _short(value: float) -> str:
    return f'{value:.0f}' if value >= 100 else f'{value:.1f}' if value >= 10 else f'{value:.2f}'
