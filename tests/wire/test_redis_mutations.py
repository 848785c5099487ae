"""A recorded session of a Redis, damaged in many ways, and servers that mean harm: our errors, no hang, and
nothing of it ends a task of ours.

Each seed changes the same bytes in the same way, so a failure names how to have it again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket

import pytest
from redis.exceptions import RedisError

from greenmq import Connection, Exchange, Queue
from greenmq.exceptions import AMQPError, KombuError, OperationalError, TimeoutError
from greenmq.transport.redis import resp
from greenmq.transport.redis.errors import AuthenticationFailed, LinkLost, WrongReply
from tests.support import green
from tests.support.redis_peer import Peer

SEEDS = 20_000 if os.environ.get('GREENMQ_SOAK') else 500
BATCH = SEEDS // 10
#: What a program has to be ready for.
OURS = (AMQPError, KombuError, OperationalError, OSError)

pytestmark = [pytest.mark.green_timeout(1200), pytest.mark.once]


def use(transport):
    """A program's way through the session; gives the error that it ends with."""
    try:
        transport.establish_connection()
        channel = transport.create_channel(transport)
        client = transport.client
        exchange = Exchange('ex', 'topic')
        queue = Queue('q', exchange, 'k.#', expires=600)(channel)
        queue.declare()
        publish = client.Producer(channel).publish
        for n in range(4):
            publish({'n': n}, exchange='ex', routing_key='k.a', timeout=5)
        publish('later', routing_key='q', headers={'x-delay': 60_000}, timeout=5)
        message = queue.get()
        if message is not None:
            message.ack()
        got = []
        consumer = client.Consumer([queue], channel=channel, on_message=got.append)
        consumer.consume()
        with contextlib.suppress(TimeoutError):
            while len(got) < 3:
                transport.drain_events(transport, timeout=0.3)
        for message in got:
            message.requeue()
        consumer.cancel()
        queue.purge()
        channel.get_table('ex')
        queue.delete()
        channel.close()
        transport.close_connection(transport)
    except Exception as error:
        return error
    return None


def run(answer):
    """The error of a session whose n-th command is answered so."""
    with Peer(answer) as peer:
        client = Connection(peer.url, connect_timeout=2)
        transport = client.transport
        working = green.spawn(use, transport)
        peer.done.wait(10)
        with contextlib.suppress(green.Timeout):
            working.get(timeout=0.05)
        transport.driver.server.close()  # nobody listens there any more
        error = working.get(timeout=10)
        with contextlib.suppress(*OURS):
            transport.close_connection(transport)
        return error


@pytest.fixture(scope='module')
def recorded(request):
    """What a server answered to each command of the session."""
    server = request.getfixturevalue('redis_session')
    pieces = []
    with socket.create_connection(('127.0.0.1', server.port)) as sock:
        parser = resp.make_parser()

        def ask(number, command):
            sock.sendall(resp.pack(tuple(command)))
            raw, found = b'', []
            while not [reply for reply in found if type(reply) is not resp.Push]:
                data = sock.recv(65536)
                raw += data
                found += parser.take(data)
            pieces.append(raw)
            return raw

        error = run(ask)
        server.flush()
    assert error is None and len(pieces) > 25
    return pieces


TOKENS = [
    b'$-1\r\n', b'*0\r\n', b'*-1\r\n', b':0\r\n', b':-7\r\n', b'+OK\r\n', b'_\r\n', b'#t\r\n',
    b',1.5\r\n', b'%0\r\n', b'%1\r\n+version\r\n+\xc2\xb2\xc2\xb3\r\n', b'*1\r\n:1\r\n',
    b'*3\r\n:-1\r\n:0\r\n:9\r\n', b'$2\r\n\xff\xfe\r\n', b'*3\r\n:0\r\n:0\r\n:0\r\n',
    b'*2\r\n$1\r\na\r\n:1\r\n', b'>0\r\n', b'>1\r\n+invalidate\r\n', b'*1000000\r\n',
    b'>2\r\n+invalidate\r\n*1\r\n*1\r\n+q\r\n', b'>2\r\n+invalidate\r\n:5\r\n', b'>2\r\n:1\r\n:2\r\n',
    b'(1' + b'0' * 400 + b'\r\n', b'-ERR \x1b[31mred\r\n', b'-MOVED\r\n', b'-MOVED x y\r\n',
    b'-LOADING\r\n', b'-NOSCRIPT\r\n', b'-\r\n', b'!3\r\nERR\r\n', b'*1\r\n' * 40, b'$600000000\r\n',
    b'*2000000000\r\n', b'~1\r\n*0\r\n', b'|1\r\n+a\r\n+b\r\n:1\r\n', b'HTTP/1.1 400\r\n\r\n',
]  # fmt: skip


def flip(piece, rng):
    for _ in range(rng.choice((1, 1, 2, 5))):
        piece[rng.randrange(len(piece))] ^= 1 << rng.randrange(8)


def cut(piece, rng):
    start = rng.randrange(len(piece))
    del piece[start : start + rng.choice((1, 2, 7, 100))]


def double(piece, rng):
    start = rng.randrange(len(piece))
    piece[start:start] = piece[start : start + rng.randrange(1, 100)] * rng.choice((1, 2, 20))


def replace(piece, rng):
    piece[:] = rng.choice(TOKENS)


def insert(piece, rng):
    piece[0:0] = rng.choice(TOKENS)


def count(piece, rng):
    """A length or a number that says something else."""
    places = [at for at in range(len(piece)) if piece[at] in b'0123456789']
    if places:
        piece[rng.choice(places)] = rng.choice(b'0123456789-')


MUTATIONS = [flip, cut, double, replace, replace, insert, count]


def mutated(seed, pieces):
    rng = random.Random(seed)
    # Half of them are damaged behind the handshake: it would keep most from coming further.
    at = rng.randrange(5 if seed % 2 else 0, len(pieces))
    piece = bytearray(pieces[at])
    rng.choice(MUTATIONS)(piece, rng)
    return [*pieces[:at], bytes(piece), *pieces[at + 1 :]]


@pytest.mark.parametrize('first', range(0, SEEDS, BATCH))
def test_a_damaged_session_ends_in_our_errors(first, recorded, caplog):
    def replay(seed):
        pieces = mutated(seed, recorded)
        return run(lambda number, command: pieces[number] if number < len(pieces) else None)

    for start in range(first, first + BATCH, 25):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            running = {seed: green.spawn(replay, seed) for seed in range(start, start + 25)}
            green.joinall(list(running.values()))
        for seed, each in running.items():
            error = each.get()
            assert error is None or isinstance(error, OURS), f'seed {seed}: {error!r}'
            assert '\x1b' not in str(error), f'seed {seed}'
        told = [record for record in caplog.records if record.exc_info or '\x1b' in record.getMessage()]
        assert not told, f'from seed {start} on: {told[0].getMessage()} {told[0].exc_text}'
        assert all(len(record.getMessage()) < 2000 for record in caplog.records), f'from seed {start} on'


@pytest.mark.parametrize('token', TOKENS, ids=lambda token: repr(token)[:40])
def test_each_kind_of_reply_to_every_command(token):
    error = run(lambda number, command: token)
    assert isinstance(error, OURS) or (error is None and token in (b'+OK\r\n',)), repr(error)
    assert len(str(error)) < 1000 and '\x1b' not in str(error)


@pytest.mark.parametrize(
    ('command', 'reply'),
    [
        (b'SMEMBERS', b':1\r\n'), (b'SMEMBERS', b'*1\r\n:1\r\n'), (b'LLEN', b'%0\r\n'),
        (b'HSET', b'*0\r\n'),
        (b'EVALSHA', b'$2\r\nab\r\n'), (b'EVALSHA', b'*4\r\n:0\r\n:0\r\n:1\r\n:9\r\n'), (b'EVAL', b'_\r\n'),
        (b'EVALSHA', b'*5\r\n:0\r\n:0\r\n:1\r\n:99\r\n:0\r\n'),
        (b'SADD', b'*1\r\n:1\r\n'), (b'EXEC', b'+OK\r\n'),
    ],
)  # fmt: skip
def test_a_reply_of_the_wrong_kind_ends_the_link_by_one_error(recorded, command, reply, caplog):
    def answer(number, words):
        return reply if words[0] == command else recorded[number] if number < len(recorded) else None

    error = run(answer)
    texts = [str(error), *(record.getMessage() for record in caplog.records)]
    assert isinstance(error, OURS), repr(error)
    assert any('of the wrong kind' in text for text in texts)
    assert issubclass(WrongReply, LinkLost) and issubclass(LinkLost, RedisError)


@pytest.mark.parametrize(
    'flood', [b':1\r\n' * 10_000, b'*1048576\r\n' + b':1\r\n' * 50_000, b'>1\r\n+x\r\n' * 5000]
)
def test_a_flood_in_the_handshake_ends_in_time(flood):
    error = run(lambda number, command: flood)
    assert isinstance(error, OURS)


def test_what_a_sentinel_says_of_the_login_is_its_word():
    with Peer(lambda number, command: b'-WRONGPASS invalid username-password pair\r\n') as peer:
        url = peer.url.replace('redis', 'sentinel', 1)
        client = Connection(url, transport_options={'master_name': 'm', 'sentinel_kwargs': {'password': 'x'}})
        with pytest.raises(AuthenticationFailed, match='WRONGPASS'):
            client.transport.establish_connection()
