"""The page of a worker: what a person wants to know at a glance, refreshed by the browser."""

from __future__ import annotations

from html import escape
from typing import Any

from greenmq.utils.text import printable
from greenmq.worker.report import Report, pool_figures

__all__ = ('render',)

# Seconds between two loads.
REFRESH = 2

# Consumers that the page shows; what is amiss comes first.
ROWS = 100

STYLE = '''
:root { color-scheme: light dark; --ink: #1c2321; --soft: #5d6b66; --paper: #f6f8f7; --card: #ffffff;
  --line: #dfe5e2; --good: #1b7f4b; --bad: #b3261e; --wait: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ece9; --soft: #9aa8a2; --paper: #141917;
  --card: #1c2320; --line: #303a36; --good: #6fd6a0; --bad: #ff9d94; --wait: #f0c266; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; margin-bottom: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.wait { color: var(--wait); } .state { font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(4, 1fr); gap: .75rem; margin: 0; }
.figures div, .table { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.figures div { padding: .75rem 1rem; }
.figures dt { color: var(--soft); font-size: .875rem; } .figures dd { margin: 0; font-size: 1.375rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .4375rem .625rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
th:first-child, td:first-child { padding-left: 1rem; }
th:last-child, td:last-child { padding-right: 1rem; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
th { color: var(--soft); font-weight: 500; font-size: .875rem; }
td { border-top: 1px solid var(--line); }
ul { margin: 0; padding: 0; list-style: none; } li { padding: .25rem 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding: 1.25rem .75rem 2rem; }
  .figures { grid-template-columns: repeat(2, 1fr); gap: .5rem; } }
'''

COLUMNS = ('Queues', 'State', 'In hand', 'At once', 'Prefetch', 'Done', 'Acked', 'Rejected', 'Requeued',
           'Failed', 'Mean')


def render(report: Report) -> str:
    """The HTML."""
    consumers = report.status['consumers']
    word, tone = _state(report)
    return f'''<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH}"><title>{escape(report.name)}: {word}</title>
<style>{STYLE}</style></head><body>
<header><h1>{escape(report.name)}</h1><span id="state" class="state {tone}">{word}</span>
<span class="soft">{escape(report.status['connection'] or 'no connection')}</span></header>
{_trouble(report)}<dl class="figures">{_figures(report, consumers)}</dl>
<h2>Last errors</h2>{_errors(report)}
<h2>Consumers</h2>{_consumers(consumers)}
<h2>Pools</h2>{_pools()}
</body></html>
'''


def _state(report: Report) -> tuple[str, str]:
    if report.ready:
        return 'consuming', 'good'
    state = report.status['state']
    if state != 'consuming':
        return state, 'wait'
    return ('the broker does not answer' if report.answer is None else 'not all consume'), 'bad'


def _trouble(report: Report) -> str:
    error, next_try = report.status['error'], report.status['next_try']
    if error is None:
        return ''
    return f'<p id="trouble" class="bad">next try in {next_try:.1f} s: {escape(printable(error))}</p>\n'


def _figures(report: Report, consumers: list[dict[str, Any]]) -> str:
    figures = {
        'Per second': f'{report.rate:,.1f}',
        'Done': f'{sum(consumer["handled"] for consumer in consumers):,}',
        'In hand': f'{sum(consumer["busy"] for consumer in consumers):,}',
        'Failed': _alarming(sum(consumer['failed'] for consumer in consumers)),
        'Reconnects': f'{max(0, report.status["connects"] - 1):,}',
        'Broker answers in': '–' if report.answer is None else f'{1000 * report.answer:,.1f} ms',
        'Hub lag, worst': f'{1000 * report.worst_lag:,.0f} ms',
        'Running for': duration(report.seconds),
    }
    return ''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in figures.items())


def _alarming(count: int) -> str:
    return f'<span class="bad">{count:,}</span>' if count else '0'


def _consumers(consumers: list[dict[str, Any]]) -> str:
    shown = sorted(consumers, key=lambda consumer: (consumer['consuming'], not consumer['failed']))[:ROWS]
    table = _table(COLUMNS, [_row(consumer) for consumer in shown], 'nothing is consumed now')
    more = len(consumers) - len(shown)
    return f'{table}<p class="soft">and {more:,} more, in /metrics</p>' if more else table


def _row(consumer: dict[str, Any]) -> list[str]:
    state = consumer['state']
    tone = 'good' if consumer['consuming'] else 'wait' if state in ('starting', 'waiting', 'away') else 'bad'
    word = 'not consuming' if state == 'consuming' and not consumer['consuming'] else state
    outcomes = consumer['outcomes']
    mean = f'{1000 * consumer["seconds"] / consumer["handled"]:,.1f} ms' if consumer['handled'] else '–'
    return [
        escape(', '.join(consumer['queues'])), f'<span class="{tone}">{escape(word)}</span>',
        f'{consumer["busy"]:,}', f'{consumer["concurrency"]:,}',
        f'{consumer["prefetch"]:,}' if consumer['prefetch'] else '–', f'{consumer["handled"]:,}',
        *(f'{outcomes.get(name, 0):,}' for name in ('acked', 'rejected', 'requeued')),
        _alarming(consumer['failed']), mean,
    ]  # fmt: skip


def _pools() -> str:
    rows = [[escape(kind), escape(broker), f'{used:,}', '–' if limit is None else f'{limit:,}']
            for kind, broker, used, limit in pool_figures()]
    return _table(('Kind', 'Broker', 'In use', 'Limit'), rows, 'no pool is open')


def _errors(report: Report) -> str:
    if not report.errors:
        return '<p class="soft">none</p>'
    items = (f'<li><span class="soft">{duration(ago)} ago</span> {escape(text)}</li>'
             for ago, text in report.errors)
    return f'<ul>{"".join(items)}</ul>'


def _table(head: tuple[str, ...], rows: list[list[str]], otherwise: str) -> str:
    if not rows:
        return f'<p class="soft">{otherwise}</p>'
    top = ''.join(f'<th>{name}</th>' for name in head)
    body = ''.join(f'<tr>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in rows)
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def duration(seconds: float) -> str:
    """In the two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f'{days} d {hours} h'
    if hours:
        return f'{hours} h {minutes} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'
