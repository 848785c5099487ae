"""The numbers at the demo's end."""

from collections import Counter

import pytest

from greenmq.cli.corpus import Corpus, read
from greenmq.cli.report import Tally, differences, report


@pytest.fixture
def tally():
    tally = Tally(words=Counter(b=1, a=1, c=2), again=3, seconds=0.5)
    tally.latencies.extend([0.002, 0.001, 0.003, 0.004])
    return tally


def test_percentiles_are_latencies_that_were_measured(tally):
    assert tally.percentiles(0, 25, 50, 75, 99, 100) == [0.001, 0.001, 0.002, 0.003, 0.004, 0.004]
    assert Tally().percentiles(50) == [0.0]


def test_all_of_it(tally):
    counted = Corpus(words=Counter(tally.words), skipped=Counter({'not text': 2}))
    assert report(counted, tally).splitlines() == [
        'messages  4, a line each, out of 0 files',
        'rate      8 messages/s, published, counted and answered (0.50 s)',
        'latency   p50 2.00 ms, p99 4.00 ms, from publish to counted',
        'words     4, 3 different; the most common:',
        '                  2  c',
        '                  1  a',
        '                  1  b',
        'totals    equal to a direct count',
        'again     3 results came twice, and were counted once',
        'left out  2 files: not text',
    ]


def test_lines_for_which_there_was_no_time_are_told(tally):
    assert report(Corpus(left=1200), tally).splitlines()[-1] == (
        'left out  1,200 lines, for which there was no time: --seconds')


def test_totals_that_differ(tally):
    counted = Corpus(words=Counter(b=1, a=3, c=1))
    assert 'NOT equal to a direct count' in report(counted, tally)
    assert differences(counted, tally) == '2 words missing, 1 too many'


def test_a_file_that_changed_is_named(tally, tmp_path):
    (tmp_path / 'log').write_text('line')
    corpus = read([tmp_path])
    (tmp_path / 'log').write_text('other line')
    assert differences(corpus, tally) == f'changed while the demo ran: {tmp_path / "log"}'
