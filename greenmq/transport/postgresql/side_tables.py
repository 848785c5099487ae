"""The tables beside the messages: who is there, what queues were declared with, and where they are bound.

A row of the table of owners is a session, alive for as long as it renews its lease; it also says on which
queues somebody waits there. Each statement is one transaction.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ('CREATE', 'UNHURRIED', 'SideStatements', 'tell', 'tell_one')

#: True, and the transaction ends without waiting for the disk.
UNHURRIED = "(SELECT set_config('synchronous_commit', 'off', true)) = 'off'"

#: To be formatted with the names of the tables.
CREATE = """
CREATE TABLE IF NOT EXISTS "{owner}" (
    id BIGSERIAL PRIMARY KEY, until TIMESTAMPTZ NOT NULL, host TEXT NOT NULL,
    queues TEXT[] NOT NULL DEFAULT '{{}}'
);
CREATE TABLE IF NOT EXISTS "{facts}" (
    queue TEXT PRIMARY KEY, arguments TEXT NOT NULL, owner BIGINT, lives INTERVAL, used TIMESTAMPTZ NOT NULL
);
CREATE TABLE IF NOT EXISTS "{binding}" (
    exchange TEXT NOT NULL, kind TEXT NOT NULL, routing_key TEXT NOT NULL, queue TEXT NOT NULL,
    arguments TEXT NOT NULL, PRIMARY KEY (exchange, routing_key, queue, arguments)
)
"""

# Who waits for a queue that got messages is told, and nobody else: NOTIFY makes commits wait for each other.
_WAITED = """$1::boolean AND EXISTS (
    SELECT 1 FROM "{owner}" o WHERE o.id <> $2 AND o.until > clock_timestamp() AND {name} = ANY(o.queues)
)"""
_TELL = f"""
(SELECT count(pg_notify('{{channel}}', 'q' || t.name)) FROM (
    SELECT DISTINCT s.name FROM {{source}} s WHERE {_WAITED.replace('{name}', 's.name')}
) t)
"""
_TELL_ONE = f"""
CASE WHEN {_WAITED.replace('{name}', '$3::text')} THEN pg_notify('{{channel}}', 'q' || $3::text)::text END
"""

_ENLIST = """
INSERT INTO "{owner}" (until, host) VALUES (clock_timestamp() + make_interval(secs => $1), $2) RETURNING id
"""

_RENEW = """
WITH mine AS (
    INSERT INTO "{owner}" AS o (id, until, host, queues)
    VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3, $4::text[])
    ON CONFLICT (id) DO UPDATE SET until = excluded.until, queues = excluded.queues RETURNING o.id
), used AS (
    UPDATE "{facts}" SET used = clock_timestamp() WHERE queue = ANY($4::text[]) AND lives IS NOT NULL
)
SELECT id, CASE WHEN $5::boolean THEN pg_notify('{channel}_' || id, 'here')::text END FROM mine
"""

_EXPIRED = """
SELECT f.queue FROM "{facts}" f WHERE f.used + f.lives < clock_timestamp() AND NOT EXISTS (
    SELECT 1 FROM "{owner}" o WHERE o.until > clock_timestamp() AND f.queue = ANY(o.queues)
) OR (
    f.owner IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM "{owner}" o WHERE o.id = f.owner AND o.until > clock_timestamp()
    )
)
"""

_BIND = """
WITH added AS (
    INSERT INTO "{binding}" VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING exchange
)
SELECT pg_notify('{channel}', 'b' || exchange) FROM added
"""

_UNBIND = """
WITH removed AS (
    DELETE FROM "{binding}" WHERE exchange = $1 AND routing_key = $2 AND queue = $3 AND arguments = $4
    RETURNING exchange
)
SELECT pg_notify('{channel}', 'b' || exchange) FROM removed
"""


def tell(owner: str, channel: str, source: str = 'named') -> str:
    """Return the SQL that tells who waits for the queues in `source`.

    Its $1 says whether to tell at all, its $2 who tells. Braces in it are for no further formatting.
    """
    return _TELL.format(owner=owner, channel=channel, source=source)


def tell_one(owner: str, channel: str) -> str:
    """Return the SQL that tells who waits for the queue $3; see `tell`."""
    return _TELL_ONE.format(owner=owner, channel=channel)


class SideStatements(NamedTuple):
    """The statements for some tables; $1 and so on are their values."""

    channel: str
    enlist: str
    renew: str
    facts: str
    expired: str
    bindings: str
    bind: str
    unbind: str

    @classmethod
    def of(cls, owner: str, facts: str, binding: str, channel: str) -> SideStatements:
        """Write them for some tables, telling others on a channel."""
        names = {'owner': owner, 'facts': facts, 'binding': binding, 'channel': channel}
        return cls(
            channel,
            *(statement.format(**names) for statement in (
                _ENLIST, _RENEW, 'SELECT arguments FROM "{facts}" WHERE queue = $1', _EXPIRED,
                'SELECT kind, routing_key, queue, arguments FROM "{binding}" WHERE exchange = $1',
                _BIND, _UNBIND,
            )),
        )  # fmt: skip
