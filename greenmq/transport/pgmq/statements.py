"""The statements: each is one transaction and carries a batch.

Those about one queue name its table. A delivery is known by the time of its read, which no later read has.
Arrays stand as ``(SELECT $1::text[])``: the server would plan anew for each run by how long they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from greenmq.transport.pgmq.names import Name
from greenmq.transport.postgresql import side_tables
from greenmq.transport.postgresql.side_tables import UNHURRIED, SideStatements, tell, tell_one

__all__ = ('READS', 'QueueStatements', 'Statements', 'due')

CHANNEL, OWNER, FACTS, BINDING, NAME = (
    'greenmq', 'greenmq_owner_pgmq', 'greenmq_queue_pgmq', 'greenmq_binding_pgmq', 'greenmq_name_pgmq'
)  # fmt: skip

#: How messages are read, by the option `fifo_mode`.
READS = {None: 'read', 'grouped': 'read_grouped', 'round_robin': 'read_grouped_rr'}

_CREATE = f"""
SELECT pg_advisory_xact_lock(hashtext('greenmq tables'));
CREATE TABLE IF NOT EXISTS "{NAME}" (name TEXT PRIMARY KEY, queue TEXT NOT NULL);
{side_tables.CREATE.format(owner=OWNER, facts=FACTS, binding=BINDING)}
"""

_THERE = f"""
SELECT to_regclass('pgmq.meta') IS NOT NULL, every(to_regclass(t) IS NOT NULL)
FROM unnest(ARRAY['{NAME}', '{OWNER}', '{FACTS}', '{BINDING}']) t
"""

_TOLD = tell(OWNER, CHANNEL)

#: $3 to $7: queues, their names in pgmq, messages, headers, seconds of delay.
_PUT = f"""
WITH given AS (
    SELECT g.queue, m.queue_name AS known, g.message, g.headers, g.delay::float8, g.n
    FROM unnest(
        (SELECT $3::text[]), (SELECT $4::text[]), (SELECT $5::text[]), (SELECT $6::text[]),
        (SELECT $7::text[])
    ) WITH ORDINALITY AS g(queue, name, message, headers, delay, n)
    LEFT JOIN pgmq.meta m ON m.queue_name = g.name
), stored AS (
    SELECT s FROM (
        SELECT g.known, g.delay, array_agg(g.message::jsonb ORDER BY g.n) AS messages,
            array_agg(g.headers::jsonb ORDER BY g.n) AS headers
        FROM given g WHERE g.known IS NOT NULL GROUP BY g.known, g.delay
    ) b CROSS JOIN LATERAL pgmq.send_batch(
        b.known, b.messages, b.headers, clock_timestamp() + make_interval(secs => b.delay)
    ) s
), named AS (
    SELECT g.queue AS name FROM given g WHERE g.known IS NOT NULL
)
SELECT n::int FROM given WHERE known IS NULL
UNION ALL SELECT -({_TOLD})::int UNION ALL SELECT -count(*)::int FROM stored
"""

# A message that is alone: a row, if there is its queue. To make a batch of it takes the server longer.
_PUT_ONE = f"""
SELECT pgmq.send(
    m.queue_name, $5::jsonb, $6::jsonb, clock_timestamp() + make_interval(secs => $7::text::float8)
), {tell_one(OWNER, CHANNEL)}
FROM pgmq.meta m WHERE m.queue_name = $4::text
"""

#: $1 to $4: queues, their names in pgmq, messages at most, seconds of the lease. Each queue is read for the
#: room that those before it left. Nobody waits for the disk: a read that a crash of the server undoes is made
#: again.
_TAKE = """
WITH RECURSIVE asked AS (
    SELECT g.queue, m.queue_name AS name, row_number() OVER (ORDER BY g.turn) AS turn
    FROM unnest((SELECT $1::text[]), (SELECT $2::text[])) WITH ORDINALITY AS g(queue, name, turn)
    JOIN pgmq.meta m ON m.queue_name = g.name
), looked(turn, queue, found, room) AS (
    SELECT 0::bigint, ''::text, ARRAY[]::pgmq.message_record[], $3::int
    UNION ALL
    SELECT a.turn, a.queue, r.found, l.room - cardinality(r.found)
    FROM looked l JOIN asked a ON a.turn = l.turn + 1 CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(x), '{{}}'::pgmq.message_record[]) AS found
        FROM pgmq.{read}(a.name, $4::int, l.room) x
    ) r WHERE l.room > 0
)
SELECT l.queue, f.msg_id, (extract(epoch FROM f.last_read_at) * 1000000)::bigint, f.read_ct - 1,
    f.message::text
FROM looked l CROSS JOIN LATERAL unnest(l.found) WITH ORDINALITY
    AS f(msg_id, read_ct, enqueued_at, last_read_at, vt, message, headers, place)
WHERE {unhurried} ORDER BY l.turn, {order}
"""

_CALLED = f"""
SELECT (SELECT n.queue FROM "{NAME}" n WHERE n.name = $1), EXISTS (
    SELECT 1 FROM pgmq.meta WHERE queue_name = $2::text
)
"""
_CALL = f'INSERT INTO "{NAME}" (name, queue) VALUES ($1, $2) ON CONFLICT DO NOTHING'

_DECLARE = f"""
INSERT INTO "{FACTS}" (queue, arguments, owner, lives, used)
SELECT $1::text, $2::text, $3::bigint, make_interval(secs => $4::float8), clock_timestamp()
WHERE $2::text <> '{{}}' OR $3::bigint IS NOT NULL OR EXISTS (SELECT 1 FROM "{FACTS}" WHERE queue = $1::text)
ON CONFLICT (queue) DO UPDATE
SET arguments = excluded.arguments, owner = excluded.owner, lives = excluded.lives, used = excluded.used
"""

_ENABLE_NOTIFY = """
SELECT pgmq.enable_notify_insert($1::text, $2::int)
WHERE NOT EXISTS (SELECT 1 FROM pgmq.notify_insert_throttle WHERE queue_name = $1::text)
"""

_DELETE = f"""
WITH called AS (
    DELETE FROM "{NAME}" WHERE name = $1
), facts AS (
    DELETE FROM "{FACTS}" WHERE queue = $3::text
), bindings AS (
    DELETE FROM "{BINDING}" WHERE queue = $3::text RETURNING exchange
), dropped AS (
    SELECT pgmq.drop_queue($2::text)
)
SELECT pg_notify('{CHANNEL}', 'b' || exchange) FROM bindings GROUP BY exchange
UNION ALL SELECT NULL WHERE (SELECT count(*) FROM dropped) < 0
"""

_THEIR_BINDINGS = f"""
SELECT t.pattern, coalesce(n.queue, t.queue_name)
FROM pgmq.topic_bindings t LEFT JOIN "{NAME}" n ON n.name = lower(t.queue_name)
WHERE t.pattern = $1::text OR left(t.pattern, length($2::text)) = $2::text
"""

_BIND_TOPIC = """
SELECT pgmq.bind_topic($1::text, $2::text) WHERE EXISTS (SELECT 1 FROM pgmq.meta WHERE queue_name = $2::text)
"""

_QUEUES = f"""
SELECT m.queue_name, n.queue FROM pgmq.meta m LEFT JOIN "{NAME}" n ON n.name = lower(m.queue_name)
ORDER BY m.queue_name
"""

_CLEAN = f"""
DELETE FROM "{OWNER}" WHERE until < clock_timestamp() - interval '1 minute'
"""


class Statements(NamedTuple):
    """The statements that name no queue."""

    side: SideStatements
    take: str
    there: str = _THERE
    create: str = _CREATE
    extension: str = 'CREATE EXTENSION IF NOT EXISTS pgmq CASCADE'
    leave: str = f'DELETE FROM "{OWNER}" WHERE id = $1'
    put: str = _PUT
    put_one: str = _PUT_ONE
    called: str = _CALLED
    call: str = _CALL
    create_queue: str = 'SELECT pgmq.create($1::text)'
    create_partitioned: str = 'SELECT pgmq.create_partitioned($1::text, $2::text, $3::text)'
    create_fifo_index: str = 'SELECT pgmq.create_fifo_index($1::text)'
    enable_notify: str = _ENABLE_NOTIFY
    declare: str = _DECLARE
    has: str = 'SELECT 1 FROM pgmq.meta WHERE queue_name = $1::text'
    delete: str = _DELETE
    their_bindings: str = _THEIR_BINDINGS
    bind_topic: str = _BIND_TOPIC
    unbind_topic: str = 'SELECT pgmq.unbind_topic($1::text, $2::text)'
    queues: str = _QUEUES
    clean: str = _CLEAN

    @classmethod
    def of(cls, fifo_mode: str | None) -> Statements:
        """Write them for a way to read."""
        order = 'f.msg_id' if fifo_mode is None else 'f.place'
        return cls(
            SideStatements.of(OWNER, FACTS, BINDING, CHANNEL),
            _TAKE.format(read=READS[fifo_mode], order=order, unhurried=UNHURRIED),
        )


#: Of what is given ($3 the queue, $4 ids, $5 the times of their reads) what is ours.
_MINE = """
WITH given AS (
    SELECT * FROM unnest((SELECT $4::bigint[]), (SELECT $5::bigint[])) AS g(id, at)
), mine AS (
    SELECT q.msg_id FROM {table} q JOIN given g ON g.id = q.msg_id
    WHERE (extract(epoch FROM q.last_read_at) * 1000000)::bigint = g.at FOR UPDATE OF q
), done AS (
    {action}
), named AS (
    SELECT $3::text AS name WHERE {back} AND EXISTS (SELECT 1 FROM mine)
)
SELECT g.id FROM given g {others} WHERE g.id NOT IN (SELECT msg_id FROM mine)
UNION ALL SELECT 0 WHERE (SELECT count(*) FROM done) + {told} < 0
"""

_SEEN = "SELECT pgmq.set_vt('{name}', ARRAY(SELECT msg_id FROM mine), 0)"
_UNSEEN = """UPDATE {table} q SET vt = clock_timestamp(), read_ct = greatest(q.read_ct - 1, 0)
    FROM mine WHERE q.msg_id = mine.msg_id RETURNING q.msg_id"""


class QueueStatements(NamedTuple):
    """The statements about one queue.

    `done`, `requeue`, `unseen` and `extend` return the ids of deliveries that are not ours any more: the
    first three of messages that are still there, `extend` of all.
    """

    done: str
    requeue: str
    unseen: str
    extend: str
    size: str
    purge: str
    facts: str

    @classmethod
    def of(cls, name: Name) -> QueueStatements:
        """Write them for a queue. Its name has no quote in it."""
        there = f'JOIN {name.table} q ON q.msg_id = g.id'

        def mine(action: str, back: bool, others: str) -> str:
            return _MINE.format(
                table=name.table, action=action.format(name=name.name, table=name.table), others=others,
                back='true' if back else 'false AND $1::boolean AND $2::bigint = 0',
                told=_TOLD if back else '0',
            )  # fmt: skip

        return cls(
            mine("SELECT pgmq.delete('{name}', ARRAY(SELECT msg_id FROM mine))", False, there),
            mine(_SEEN, True, there), mine(_UNSEEN, True, there),
            mine("SELECT pgmq.set_vt('{name}', ARRAY(SELECT msg_id FROM mine), $6::int)", False, ''),
            f'SELECT count(*)::int FROM {name.table} WHERE vt <= clock_timestamp()',
            f"""WITH gone AS (
                DELETE FROM {name.table} WHERE vt <= clock_timestamp() OR read_ct = 0 RETURNING 1
            ) SELECT count(*)::int FROM gone""",
            f"""SELECT count(*) FILTER (WHERE vt <= clock_timestamp())::int,
                count(*) FILTER (WHERE vt > clock_timestamp() AND read_ct > 0)::int,
                count(*) FILTER (WHERE vt > clock_timestamp() AND read_ct = 0)::int,
                extract(epoch FROM clock_timestamp() - min(enqueued_at))::float8 FROM {name.table}""",
        )  # fmt: skip


def due(names: Sequence[Name]) -> str:
    """Return the statement for the seconds until the next message of some queues may be read."""
    times = ' UNION ALL '.join(f'SELECT min(vt) AS vt FROM {name.table}' for name in names)
    return f'SELECT extract(epoch FROM min(t.vt) - clock_timestamp())::float8 FROM ({times}) t'
