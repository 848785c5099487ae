"""HTTP/1.1 for the brokers that speak it: one deadline an exchange, a bounded pool, and no blocking call.

httpcore frames requests and answers (on h11); bytes come and go by runtime's Stream, so waits, kills and
deadlines are what they are everywhere in greenmq. Read `client.py` first, then `pool.py` and `connection.py`;
`pacing.py` says how long to wait before a request is made again.
"""

from __future__ import annotations

from greenmq.transport.http.client import Client, Settings
from greenmq.transport.http.connection import NoAnswer, NoAnswerInTime, Response
from greenmq.transport.http.pacing import Pace, pause_before, retry_after

__all__ = (
    'Client', 'NoAnswer', 'NoAnswerInTime', 'Pace', 'Response', 'Settings', 'pause_before', 'retry_after',
)  # fmt: skip
