"""What came back from the demo's run, and what is said about it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

from greenmq.cli.corpus import Corpus

MOST_COMMON = 10


@dataclass
class Tally:
    """What came back.

    Attributes:
        words (Counter[str]): how often each word was counted.
        latencies (array[float]): seconds from each publish to the callback that counted the line.
        lines (int): that were published.
        again (int): results that came a second time, as they may where delivery is at least once.
        seconds (float): from the first publish to the last result.
    """

    words: Counter[str] = field(default_factory=Counter)
    latencies: array[float] = field(default_factory=lambda: array('d'))
    lines: int = 0
    again: int = 0
    seconds: float = 0.0

    def percentiles(self, *percents: float) -> list[float]:
        """The latencies in seconds that so many percent of the lines did not exceed."""
        ordered = sorted(self.latencies) or [0.0]
        return [ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] for percent in percents]


def report(corpus: Corpus, tally: Tally) -> str:
    """The lines to print."""
    seconds = max(tally.seconds, 1e-9)
    median, late = tally.percentiles(50, 99)
    facts = [
        ('messages', f'{len(tally.latencies):,}, a line each, out of {_files(len(corpus.texts))}'),
        ('rate', f'{len(tally.latencies) / seconds:,.0f} messages/s, published, counted and answered'
                 f' ({tally.seconds:.2f} s)'),
        ('latency', f'p50 {_ms(median)}, p99 {_ms(late)}, from publish to counted'),
        ('words', f'{tally.words.total():,}, {len(tally.words):,} different; the most common:'),
        *(('', f'{count:>9,}  {word}') for word, count in _most_common(tally.words)),
        ('totals', f'{"equal" if tally.words == corpus.words else "NOT equal"} to a direct count'),
    ]
    if tally.again:
        facts.append(('again', f'{tally.again:,} results came twice, and were counted once'))
    if corpus.left:
        facts.append(('left out', f'{corpus.left:,} lines, for which there was no time: --seconds'))
    facts += [('left out', f'{_files(count)}: {reason}') for reason, count in sorted(corpus.skipped.items())]
    return '\n'.join(f'{name:<10}{text}' for name, text in facts)


def differences(corpus: Corpus, tally: Tally) -> str:
    """Why the totals are not equal, as far as it can be seen."""
    changed = [str(text.path) for text in corpus.texts if text.changed()]
    if changed:
        return f'changed while the demo ran: {", ".join(changed[:5])}'
    missing, surplus = corpus.words - tally.words, tally.words - corpus.words
    return f'{missing.total():,} words missing, {surplus.total():,} too many'


def _files(count: int) -> str:
    return f'{count:,} files' if count != 1 else '1 file'


def _ms(seconds: float) -> str:
    return f'{seconds * 1000:.2f} ms'


def _most_common(counted: Counter[str]) -> list[tuple[str, int]]:
    # By the alphabet where the numbers are equal: the same input prints the same list.
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:MOST_COMMON]
