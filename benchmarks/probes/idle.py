"""What an open connection costs that has nothing to do: `python -m benchmarks.probes.idle greenmq URL S`,
for S seconds.

Counts the switches of greenlets, which is every wake-up there is, beside the heartbeats that are due.
"""
from __future__ import annotations

import json
import sys

import gevent
import greenlet

from benchmarks.probes.meter import Meter
from greenmq import Connection, Consumer, Queue

HEARTBEAT = 2


def measure(url, seconds):
    switches = 0

    def trace(event, args):
        nonlocal switches
        switches += 1

    with Connection(url, heartbeat=HEARTBEAT) as connection:
        queue = Queue('bench-idle', durable=False, exclusive=True)
        with Consumer(connection, [queue], callbacks=[lambda body, message: message.ack()]):
            drain = gevent.spawn(connection.drain_events)
            gevent.sleep(0.5)
            greenlet.settrace(trace)
            with Meter() as meter:
                gevent.sleep(seconds)
            greenlet.settrace(None)
            drain.kill()
    # Each half heartbeat: our own beat (its task, the writer), and the broker's that is read; to and fro.
    beats = 2 * seconds / HEARTBEAT
    return {'switches_per_beat': switches / beats, 'cpu_us_per_second': 1e6 * meter.cpu / meter.seconds}


def main(arguments):
    print(json.dumps(measure(arguments[1], float(arguments[2]))))


if __name__ == '__main__':
    main(sys.argv[1:])
