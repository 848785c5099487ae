"""What a stretch of work costs this process: time, CPU, memory, connections."""
from __future__ import annotations

import os
import time


class Meter:
    """`with Meter() as meter: …`, then `meter.figures(messages)`."""

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def start(self):
        self._start = time.perf_counter(), time.process_time()

    def stop(self):
        self.seconds = time.perf_counter() - self._start[0]
        self.cpu = time.process_time() - self._start[1]

    def figures(self, messages, port=0):
        """Rate, CPU (user + system) a message, peak memory, and the connections open to `port` now."""
        return {
            'per_second': messages / self.seconds, 'cpu_us': 1e6 * self.cpu / messages,
            'peak_mb': peak_mb(),
            'connections': connections(port),
        }


def peak_mb():
    """The most memory that was resident. Not ru_maxrss: a child starts with its parent's."""
    with open('/proc/self/status') as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith('VmHWM'))


def connections(port):
    """How many TCP connections this process has to a port."""
    mine = set()
    for name in os.listdir('/proc/self/fd'):
        try:
            mine.add(os.readlink(f'/proc/self/fd/{name}'))
        except OSError:
            continue  # the one that listed the directory
    found = 0
    for table in ('/proc/net/tcp', '/proc/net/tcp6'):
        with open(table) as lines:
            for line in list(lines)[1:]:
                field = line.split()
                found += f'socket:[{field[9]}]' in mine and int(field[2].rpartition(':')[2], 16) == port
    return found


def quantiles(seconds, count=50):
    """The distribution as `count` + 1 figures in milliseconds, from least to most."""
    ordered = sorted(seconds)
    return [1e3 * ordered[round(step / count * (len(ordered) - 1))] for step in range(count + 1)]
