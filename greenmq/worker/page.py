"""The page of a worker: what a person wants to know at a glance, refreshed by the browser."""

from __future__ import annotations

from html import escape
from typing import Any

from greenmq.worker.report import Report, pool_figures

__all__ = ('render',)

# Seconds between two loads.
REFRESH = 2

STYLE = '''
:root { color-scheme: light dark; --ink: #1c2321; --soft: #5d6b66; --paper: #f6f8f7; --card: #ffffff;
  --line: #dfe5e2; --good: #1b7f4b; --bad: #b3261e; --wait: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ece9; --soft: #9aa8a2; --paper: #141917;
  --card: #1c2320; --line: #303a36; --good: #6fd6a0; --bad: #ff9d94; --wait: #f0c266; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; margin-bottom: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.wait { color: var(--wait); } .state { font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem;
  margin: 0; }
.figures div, .table { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.figures div { padding: .75rem 1rem; }
.figures dt { color: var(--soft); font-size: .875rem; } .figures dd { margin: 0; font-size: 1.375rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .875rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
th { color: var(--soft); font-weight: 500; font-size: .875rem; }
td { border-top: 1px solid var(--line); }
ul { margin: 0; padding: 0; list-style: none; } li { padding: .375rem 0; overflow-wrap: anywhere; }
'''

COLUMNS = ('Queues', 'State', 'In hand', 'At once', 'Prefetch', 'Done', 'Acked', 'Rejected', 'Requeued',
           'Failed', 'Mean')


def render(report: Report) -> str:
    """The HTML. Switches: no.

    Source: greenmq's own.
    """
    lanes = report.status['consumers']
    word, tone = _state(report)
    return f'''<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH}"><title>{escape(report.name)}: {word}</title>
<style>{STYLE}</style></head><body>
<header><h1>{escape(report.name)}</h1><span id="state" class="state {tone}">{word}</span>
<span class="soft">{escape(report.status['connection'] or 'no connection')}</span></header>
<dl class="figures">{_figures(report, lanes)}</dl>
<h2>Consumers</h2>{_consumers(lanes)}
<h2>Pools</h2>{_pools()}
<h2>Last errors</h2>{_errors(report, lanes)}
</body></html>
'''


def _state(report: Report) -> tuple[str, str]:
    if report.ready:
        return 'consuming', 'good'
    state = report.status['state']
    if state != 'consuming':
        return state, 'wait'
    return ('the broker does not answer' if report.answer is None else 'not all consume'), 'bad'


def _figures(report: Report, lanes: list[dict[str, Any]]) -> str:
    figures = {
        'Per second': f'{report.rate:,.1f}',
        'Done': f'{sum(lane["handled"] for lane in lanes):,}',
        'In hand': f'{sum(lane["busy"] for lane in lanes):,}',
        'Failed': f'{sum(lane["failed"] for lane in lanes):,}',
        'Reconnects': f'{max(0, report.status["connects"] - 1):,}',
        'Broker answers in': '–' if report.answer is None else f'{1000 * report.answer:,.1f} ms',
        'Hub lag, worst': f'{1000 * report.worst_lag:,.0f} ms',
        'Running for': _duration(report.seconds),
    }
    return ''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in figures.items())


def _consumers(lanes: list[dict[str, Any]]) -> str:
    return _table(COLUMNS, [_row(lane) for lane in lanes], 'nothing is consumed now')


def _row(lane: dict[str, Any]) -> list[str]:
    tone = 'good' if lane['consuming'] else 'wait' if lane['state'] in ('starting', 'waiting') else 'bad'
    outcomes = lane['outcomes']
    mean = f'{1000 * lane["seconds"] / lane["handled"]:,.1f} ms' if lane['handled'] else '–'
    return [
        escape(', '.join(lane['queues'])), f'<span class="{tone}">{escape(lane["state"])}</span>',
        f'{lane["busy"]:,}', f'{lane["concurrency"]:,}', f'{lane["prefetch"]:,}' if lane['prefetch'] else '–',
        f'{lane["handled"]:,}', *(f'{outcomes.get(name, 0):,}' for name in ('acked', 'rejected', 'requeued')),
        f'{lane["failed"]:,}', mean,
    ]  # fmt: skip


def _pools() -> str:
    rows = [[escape(kind), escape(broker), f'{used:,}', '–' if limit is None else f'{limit:,}']
            for kind, broker, used, limit in pool_figures()]
    return _table(('Kind', 'Broker', 'In use', 'Limit'), rows, 'no pool is open')


def _errors(report: Report, lanes: list[dict[str, Any]]) -> str:
    found = [*report.errors, *(f'{", ".join(lane["queues"])}: {lane["last_error"]}'
                               for lane in lanes if lane['last_error'])]
    if not found:
        return '<p class="soft">none</p>'
    return f'<ul>{"".join(f"<li>{escape(error)}</li>" for error in found)}</ul>'


def _table(head: tuple[str, ...], rows: list[list[str]], otherwise: str) -> str:
    if not rows:
        return f'<p class="soft">{otherwise}</p>'
    top = ''.join(f'<th>{name}</th>' for name in head)
    body = ''.join(f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f'{days} d {hours} h' if days else f'{hours} h {minutes} min' if hours else f'{minutes}:{rest:02}'
