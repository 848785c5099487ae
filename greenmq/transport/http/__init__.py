"""HTTP/1.1 for the brokers that speak it: one deadline an exchange, a bounded pool, and no blocking call.

h11 frames requests and answers; bytes come and go by runtime's Stream, so waits, kills and deadlines are what
they are everywhere in greenmq. Read `client.py` first, then `pool.py` and `connection.py`;
`retrying.py` makes a request again, `pacing.py` says how long to wait before that, `parallel.py` makes
several at once.
"""

from __future__ import annotations

from greenmq.transport.http.client import Client, Settings, settings_for
from greenmq.transport.http.connection import NoAnswer, NoAnswerInTime, Response
from greenmq.transport.http.errors import ServiceError, Throttled
from greenmq.transport.http.pacing import Pace, pause_before, retry_after
from greenmq.transport.http.parallel import side_by_side
from greenmq.transport.http.retrying import call, refusal

__all__ = (
    'Client', 'NoAnswer', 'NoAnswerInTime', 'Pace', 'Response', 'ServiceError', 'Settings', 'Throttled',
    'call', 'pause_before', 'refusal', 'retry_after', 'settings_for', 'side_by_side',
)  # fmt: skip
