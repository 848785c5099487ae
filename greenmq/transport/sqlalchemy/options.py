"""The transport options of SQL brokers, for every dialect."""

from __future__ import annotations

from greenmq.transport.driver import Driver
from greenmq.transport.options import Option, seconds, truth, whole

__all__ = ('SQLDriver',)


class SQLDriver(Driver):
    """What the drivers of all dialects have in common: kombu's tables, shared bindings, leased owners."""

    delivery = 'wait'
    groups = 'all'
    wait_seconds = 15.0
    take_batch = 100
    settle_batch = 500
    settle_hold = 0.01
    put_batch = 500
    max_puts = 1
    keeps_deadline = True
    lease_seconds = 30.0
    shared_bindings = True
    options = {
        'queue_tablename': Option(str, 'kombu_queue', "the name of kombu's table of queues"),
        'message_tablename': Option(str, 'kombu_message', "the name of kombu's table of messages"),
        'purge_delivered': Option(truth, False, "delete the rows that kombu's workers have taken and left"),
        'notify': Option(truth, True, 'PostgreSQL: wake who waits with NOTIFY, and LISTEN'),
        'trigger': Option(
            truth, False, 'PostgreSQL: make a trigger by which publishes of kombu wake who waits, too'
        ),
        'prepared': Option(
            truth, True, 'PostgreSQL: prepare statements at the server; not behind a pooler that knows none'
        ),
        'max_connections': Option(whole, 4, 'PostgreSQL: connections for statements; one more listens'),
        'wait_time_seconds': Option(
            seconds, 15.0, 'seconds between two looks of who waits, beside those that a notification brings'
        ),
        'lease_timeout': Option(seconds, 30.0, 'seconds after which what a dead process held goes back'),
        'engine_options': Option(dict, None, "what to give SQLAlchemy's create_engine, for other dialects"),
    }
    body_encoding = 'base64'
