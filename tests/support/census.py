"""Head counts before and after: greenlets, file descriptors, threads, objects the collector knows."""
from __future__ import annotations

import collections
import contextlib
import gc
import os

import greenlet

from tests.support.guard import settle


def greenlets():
    """Greenlets that were started and have not ended, the running one included."""
    # bool() of a greenlet says whether it is active; nothing else keeps a list of the raw ones.
    return [obj for obj in gc.get_objects() if isinstance(obj, greenlet.greenlet) and obj]


def fds():
    """Open descriptors with what they point to: `{5: 'socket:[1234]'}`."""
    found = {}
    for name in os.listdir('/proc/self/fd'):
        try:
            found[int(name)] = os.readlink(f'/proc/self/fd/{name}')
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


def threads():
    """Native threads of the process, patched or not."""
    return len(os.listdir('/proc/self/task'))


def rss_bytes():
    """Resident memory now."""
    with open('/proc/self/statm') as statm:
        return int(statm.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def object_types():
    """How many objects of each class the collector tracks."""
    return collections.Counter(f'{type(obj).__module__}.{type(obj).__qualname__}' for obj in gc.get_objects())


@contextlib.contextmanager
def unchanged(what='fds greenlets threads'):
    """No count named may be higher after the block than before it; idle threads may end meanwhile."""
    measures = {'fds': lambda: len(fds()), 'greenlets': lambda: len(greenlets()), 'threads': threads}
    names = what.split()
    settle()  # a patched os.close() takes effect in the hub's next round
    gc.collect()
    before, descriptors = {name: measures[name]() for name in names}, fds()
    yield
    settle()
    after = {name: measures[name]() for name in names}
    grown = [name for name in names if after[name] > before[name]]
    assert not grown, (
        f'before {before}, after {after}; descriptors {descriptors}, now {fds()}; greenlets now {greenlets()}'
    )


class Growth:
    """What `rounds` calls of an action left behind, per call."""

    def __init__(self, objects, rss, rounds, types):
        self.objects_per_round = objects / rounds
        self.rss_per_round = rss / rounds
        self.types = types

    def __str__(self):
        worst = ', '.join(f'{name} {count:+d}' for name, count in self.types.most_common(8))
        return f'{self.objects_per_round:+.3f} objects and {self.rss_per_round:+.0f} bytes a round: {worst}'


def growth(action, rounds, warm_up=None, rest=lambda: None):
    """Call the action again and again with the collector switched off, and say what stays (P47).

    A cycle that only the collector could free counts as left behind: programs that create connections at a
    high rate do not wait for it. `rest()` lets tasks and threads end that are about to.
    """
    for _ in range(warm_up if warm_up is not None else max(10, rounds // 10)):
        action()
    gc.collect()
    gc.disable()
    try:
        types, objects, rss = object_types(), len(gc.get_objects()), rss_bytes()
        for _ in range(rounds):
            action()
        rest()
        return Growth(len(gc.get_objects()) - objects, rss_bytes() - rss, rounds, object_types() - types)
    finally:
        gc.enable()
