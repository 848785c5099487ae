"""Azure Service Bus as a program: `servicebus_process.py AMQP_PORT HTTP_PORT`.

Nobody can install the service: this plays what clients see of it, from memory, on Proton's engine. AMQP 1.0
with tokens (CBS), peek-lock, sub-queues for dead letters, sessions, scheduled messages, duplicate detection,
topics that forward; over HTTP the entities as Atom entries, and ``POST /-/`` for tests: faults, settings,
counts. See `servicebus_http` for the latter.
"""
from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import itertools
import sys
import time
import urllib.parse
import uuid
from collections import Counter, deque

from proton import (
    UNDESCRIBED,
    Array,
    Condition,
    Data,
    Delivery,
    Described,
    Endpoint,
    Handler,
    Link,
    Message,
    Terminus,
    int32,
    symbol,
    timestamp,
    ulong,
)
from proton.handlers import IOHandler
from proton.reactor import ApplicationEvent, Container, EventInjector

#: Policy → key, and its claims.
POLICIES = {
    'Root': ('cm9vdC9rZXk9PQ==', {'Manage', 'Send', 'Listen'}),
    'Data': ('ZGF0YQ==', {'Send', 'Listen'}),
    'Sender': ('c2VuZGVy', {'Send'}),
    'Listener': ('bGlzdGVuZXI=', {'Listen'}),
}
DEAD = '/$DeadLetterQueue'
SESSION = 'com.microsoft:session-filter'
TICKS = 621355968000000000  # .NET's epoch, in units of 100 ns
TICK = 0.03
BATCH = 0x80013700


def now_ms():
    return int(time.time() * 1000)


def claims_of(token):
    """(resource, expiry, claims) of a token; ValueError if it is none of ours."""
    if not token.startswith('SharedAccessSignature'):  # Microsoft's own client calls either kind "jwt"
        word, expiry = token.split('.', 1)
        if word != 'jwt':
            raise ValueError('no token of the tenant')
        return '', float(expiry), {'Manage', 'Send', 'Listen'}
    head, _, rest = token.partition(' ')
    facts = dict(part.split('=', 1) for part in rest.split('&'))
    name = urllib.parse.unquote(facts['skn'])
    if head != 'SharedAccessSignature' or name not in POLICIES:
        raise ValueError('InvalidSignature: no such policy')
    key, claims = POLICIES[name]
    signed = hmac.new(key.encode(), f'{facts["sr"]}\n{facts["se"]}'.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(base64.b64encode(signed).decode(), urllib.parse.unquote(facts['sig'])):
        raise ValueError('InvalidSignature: the token has an invalid signature')
    return path_of(urllib.parse.unquote(facts['sr'])), float(facts['se']), claims


def path_of(url):
    return urllib.parse.unquote(url.split('/', 3)[3]).strip('/').lower() if url.count('/') > 2 else ''


class Entity:
    """A queue, its dead letters, or a topic."""

    def __init__(self, name, facts=None, topic=False):
        self.name, self.topic = name, topic
        self.facts = facts or {}
        self.ready, self.locked, self.scheduled = deque(), {}, []
        self.consumers = []
        self.numbers = itertools.count(1)
        self.sessions = {}  # id → its link, as it is locked
        self.states = {}
        self.until = {}  # session → when its lock ends
        self.seen = {}
        self.subscriptions = {}

    def fact(self, name, default=None):
        return self.facts.get(name, default)

    @property
    def sessionful(self):
        return self.fact('RequiresSession') == 'true'


def seconds_of(duration, default):
    """Of an ISO 8601 duration such as PT1M or PT1.5S."""
    if not duration:
        return default
    days, _, rest = duration.lstrip('P').partition('T')
    total = float(days.rstrip('D')) * 86400 if days else 0.0
    for unit, factor in (('H', 3600), ('M', 60), ('S', 1)):
        if unit in rest:
            number, _, rest = rest.partition(unit)
            total += float(number) * factor
    return total


class Held:
    __slots__ = ('count', 'message', 'until', 'link')

    def __init__(self, message, count=0):
        self.message, self.count, self.until, self.link = message, count, 0.0, None


class Peer(Handler):
    def __init__(self, port):
        self.port = port
        self.entities = {}
        self.settings = {'auto_create': False, 'enforce': True, 'max_delivery': 10, 'lock': 60.0,
                         'idle_link': 0.0, 'idle_connection': 0.0, 'max_message': 1048576, 'credit': 500}
        self.counts = Counter()
        self.connections = set()
        self.replies = {}
        self.refusals = []  # [what, address, condition, times]
        self.expiries = []
        self.tags = itertools.count(1)
        self.injector = EventInjector()

    # ---- entities

    def entity(self, address):
        """The entity of an address, or None."""
        base = address[:-len(DEAD)] if address.lower().endswith(DEAD.lower()) else address
        found = self.entities.get(base.lower())
        if found is None and self.settings['auto_create']:
            found = self.create(base)
        if found is None or base == address:
            return found
        dead = self.entities.get(f'{base.lower()}{DEAD.lower()}')
        return dead or self.entities.setdefault(f'{base.lower()}{DEAD.lower()}', Entity(base + DEAD, {}))

    def create(self, name, facts=None, topic=False):
        found = self.entities[name.lower()] = Entity(name, facts, topic)
        return found

    def delete(self, name):
        for key in (name.lower(), f'{name.lower()}{DEAD.lower()}'):
            entity = self.entities.pop(key, None)
            for link in list(entity.consumers) if entity else ():
                self.end(link, 'amqp:not-found', 'the entity was deleted')

    def lock_seconds(self, entity):
        return seconds_of(entity.fact('LockDuration'), self.settings['lock'])

    # ---- what tests ask for, from the thread of HTTP

    def ask(self, command):
        """Have the reactor's thread do it."""
        self.injector.trigger(ApplicationEvent('command', subject=command))

    def on_command(self, event):
        command = event.subject
        try:
            command['answer'] = getattr(self, 'do_' + command.pop('do'))(**command.pop('with'))
        except Exception as error:  # told to the test
            command['error'] = repr(error)
        command['done'].set()

    def do_call(self, function):
        return function()

    def do_detach(self, address='', condition='amqp:link:detach-forced', role=None):
        for connection in self.connections:
            for link in self.links(connection):
                mine = 'out' if link.is_sender else 'in'
                if (not address or link.addr == address) and role in (None, mine):
                    self.end(link, condition, 'as the test wants')

    def do_close(self, condition='amqp:connection:forced'):
        for connection in list(self.connections):
            connection.condition = Condition(condition, 'as the test wants')
            connection.close()

    def do_refuse(self, what, address='', condition='com.microsoft:server-busy', times=1):
        """what: attach, transfer, token, or the name of an operation of $management."""
        self.refusals.append([what, address, condition, times])

    def do_lose_lock(self, address, token):
        self.finish(address, token, 'abandoned')

    def do_forget_tokens(self):
        for connection in self.connections:
            connection.tokens.clear()

    def refusal(self, what, address):
        for entry in self.refusals:
            if entry[0] == what and (not entry[1] or entry[1] == address) and entry[3] > 0:
                entry[3] -= 1
                return entry[2]
        return None

    # ---- connections and links

    def on_reactor_init(self, event):
        self.container = event.container
        self.container.selectable(self.injector)
        self.container.listen(f'127.0.0.1:{self.port}')
        self.container.schedule(TICK, self)

    def links(self, connection):
        link = connection.link_head(Endpoint.LOCAL_ACTIVE)
        while link is not None:
            if hasattr(link, 'addr'):
                yield link
            link = link.next(Endpoint.LOCAL_ACTIVE)

    def on_connection_remote_open(self, event):
        connection = event.connection
        connection.container = 'peer'
        connection.offered_capabilities = None
        connection.properties = {symbol('product'): 'Service Bus peer'}
        connection.tokens, connection.linked_at = {}, time.time()
        connection.open()
        self.connections.add(connection)
        self.counts['connections'] += 1

    def on_session_remote_open(self, event):
        event.session.incoming_capacity = 1024 * 1024
        event.session.open()

    def on_session_remote_close(self, event):
        for link in self.links(event.session.connection):
            if link.session == event.session:
                self.forget(link)
        event.session.close()

    def on_connection_remote_close(self, event):
        event.connection.close()

    def on_transport_closed(self, event):
        connection = event.transport.connection or event.connection
        if connection in self.connections:
            self.connections.discard(connection)
            name = connection.remote_container
            self.replies = {key: link for key, link in self.replies.items() if key[0] != name}
            for entity in list(self.entities.values()):
                for link in [link for link in entity.consumers if link.connection == connection]:
                    self.forget(link)

    def on_link_remote_open(self, event):
        link = event.link
        self.counts['attaches'] += 1
        terminus = link.remote_source if link.is_sender else link.remote_target
        address = terminus.address or ''
        link.addr = address.split('/', 3)[-1] if address.startswith(('amqp', 'sb://')) else address
        link.used = time.time()
        link.locked_session = None
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode, link.rcv_settle_mode = link.remote_snd_settle_mode, link.remote_rcv_settle_mode
        problem = self.problem(link)
        if problem:
            link.source.type = link.target.type = Terminus.UNSPECIFIED
            link.open()
            self.end(link, *problem)
            return
        if link.addr == '$cbs' or link.addr.endswith('$management'):
            if link.is_sender:
                self.replies[link.connection.remote_container, link.addr] = link
            else:
                link.flow(500)
            link.open()
            return
        entity = self.entity(link.addr)
        if not link.is_sender:
            link.max_message_size = ulong(self.settings['max_message'])
            link.open()
            link.flow(self.settings['credit'])
            return
        filters = link.remote_source.filter
        filters.rewind()
        given = (filters.get_object() if filters.next() else None) or {}
        if SESSION in given or symbol(SESSION) in given:
            wanted = given[symbol(SESSION)]
            link.wanted = wanted.value if isinstance(wanted, Described) else wanted
            timeout = (link.remote_properties or {}).get(symbol('com.microsoft:timeout'), 60000)
            link.waits_until = time.time() + timeout / 1000
            entity.consumers.append(link)
            self.give_session(entity, link)
        elif entity.sessionful:
            link.open()
            self.end(link, 'amqp:not-allowed', 'it is not possible for an entity that requires sessions to '
                                               'create a non-sessionful message receiver')
        else:
            entity.consumers.append(link)
            link.open()

    def problem(self, link):
        """Why there is no such link, or None."""
        condition = self.refusal('attach', link.addr)
        if condition:
            return condition, 'as the test wants'
        if link.addr == '$cbs':
            return None
        need = {'Listen'} if link.is_sender else {'Send'}
        if link.addr.endswith('$management'):
            need = {'Listen', 'Send'}
        if not self.allowed(link.connection, link.addr, need):
            return 'amqp:unauthorized-access', f'Unauthorized. {need} claim(s) are required on {link.addr}'
        address = link.addr.removesuffix('/$management')
        if self.entity(address) is None:
            return 'amqp:not-found', f"The messaging entity '{address}' could not be found."
        return None

    def allowed(self, connection, address, need):
        if not self.settings['enforce']:
            return True
        now, address = time.time(), address.lower()
        for path, (until, claims) in connection.tokens.items():
            if until > now and (not path or address == path or address.startswith(path + '/')):
                if claims & need:
                    return True
        return False

    def give_session(self, entity, link):
        """Let a link that waits for a session have one, if there is one."""
        wanted = link.wanted
        if wanted is None:
            wanted = next((held.message.group_id for held in entity.ready
                           if held.message.group_id and held.message.group_id not in entity.sessions), None)
        elif wanted in entity.sessions:
            link.waits_until = 0.0
            link.open()
            self.end(link, 'com.microsoft:session-cannot-be-locked', 'somebody else has it')
            return
        if wanted is None:
            return
        self.counts['sessions'] += 1
        link.locked_session, link.waits_until = wanted, 0.0
        entity.sessions[wanted] = link
        until = entity.until[wanted] = time.time() + self.lock_seconds(entity)
        link.source.filter.clear()
        link.source.filter.put_dict({symbol(SESSION): wanted})
        link.properties = {symbol('com.microsoft:locked-until-utc'): int(until * 1e7) + TICKS}
        link.open()

    def on_link_remote_close(self, event):
        self.forget(event.link)
        event.link.close()

    on_link_remote_detach = on_link_remote_close

    def forget(self, link):
        entity = self.entity(link.addr) if hasattr(link, 'addr') else None
        if entity is None:
            return
        if link in entity.consumers:
            entity.consumers.remove(link)
        if link.locked_session is not None and entity.sessions.get(link.locked_session) == link:
            self.drop_session(entity, link.locked_session)

    def drop_session(self, entity, session):
        """A session is unlocked: what its receiver held goes back in order."""
        entity.sessions.pop(session, None)
        entity.until.pop(session, None)
        held = [token for token, each in entity.locked.items() if each.message.group_id == session]
        for token in sorted(held, key=lambda token: entity.locked[token].message.annotations[
                symbol('x-opt-sequence-number')], reverse=True):
            self.finish(entity.name, token, 'released')

    def end(self, link, condition, text):
        self.forget(link)
        link.condition = Condition(condition, text)
        link.close()

    # ---- time

    def on_timer_task(self, event):
        now = time.time()
        while self.expiries and self.expiries[0][0] <= now:
            _, address, token = heapq.heappop(self.expiries)
            entity = self.entities.get(address)
            held = entity.locked.get(token) if entity else None
            if held is None:
                continue
            if held.until <= now:
                self.counts['expired_locks'] += 1
                self.finish(address, token, 'abandoned')
            else:
                heapq.heappush(self.expiries, (held.until, address, token))
        for entity in list(self.entities.values()):
            while entity.scheduled and entity.scheduled[0][0] <= now:
                self.enter(entity, heapq.heappop(entity.scheduled)[2])
            for session, until in list(entity.until.items()):
                if until <= now and session in entity.sessions:
                    self.end(entity.sessions[session], 'com.microsoft:session-lock-lost', 'its time is over')
            for link in list(entity.consumers):
                if getattr(link, 'waits_until', 0) and link.waits_until <= now:
                    link.open()
                    self.end(link, 'com.microsoft:timeout', 'no session became available')
            self.pump(entity)
        for connection in list(self.connections):
            self.look_after(connection, now)
        self.container.schedule(TICK, self)

    def look_after(self, connection, now):
        links = list(self.links(connection))
        for link in links:
            if link.state & Endpoint.REMOTE_CLOSED or link.addr == '$cbs':
                continue
            need = {'Listen'} if link.is_sender else {'Send'}
            if link.addr.endswith('$management'):
                need = {'Listen', 'Send'}
            if not self.allowed(connection, link.addr, need):
                self.counts['expired_tokens'] += 1
                self.end(link, 'amqp:unauthorized-access', 'ExpiredToken: the token is expired')
        idle = self.settings['idle_link']
        for link in links if idle else ():
            if not link.is_sender and now - link.used > idle and not link.state & Endpoint.REMOTE_CLOSED:
                self.counts['idle_links'] += 1
                self.end(link, 'amqp:link:detach-forced', 'the link was idle')
        if any(not link.addr.startswith('$') for link in links):
            connection.linked_at = now
        elif 0 < self.settings['idle_connection'] < now - connection.linked_at:
            self.counts['idle_connections'] += 1
            connection.condition = Condition('amqp:connection:forced', 'the connection was inactive')
            connection.close()

    # ---- messages

    def on_link_flow(self, event):
        link = event.link
        link.used = time.time()
        self.counts['flows'] += 1
        if link.is_sender and link.addr not in ('$cbs',) and not link.addr.endswith('$management'):
            entity = self.entity(link.addr)
            if entity is not None:
                self.pump(entity, link)
            if link.drain_mode:
                link.drained()

    def on_delivery(self, event):
        delivery, link = event.delivery, event.link
        if link.is_receiver:
            if delivery.readable and not delivery.partial:
                link.used = time.time()
                raw = link.recv(delivery.pending) or b''
                link.advance()
                self.incoming(link, delivery, raw)
                link.flow(1)
            return
        if not delivery.updated or not hasattr(delivery, 'lock'):
            return
        self.counts['dispositions'] += 1
        what = {Delivery.ACCEPTED: 'completed', Delivery.RELEASED: 'released', Delivery.REJECTED: 'suspended',
                Delivery.MODIFIED: 'abandoned'}.get(delivery.remote_state)
        if what == 'abandoned' and not delivery.remote.failed:
            what = 'released'
        if what:
            info = delivery.remote.condition.info if delivery.remote.condition else None
            done = self.finish(link.addr, delivery.lock, what, info)
            if not done:
                self.counts['stale'] += 1
                delivery.local.condition = Condition('com.microsoft:message-lock-lost', 'the lock is lost')
            delivery.update(delivery.remote_state if done else Delivery.REJECTED)
        delivery.settle()

    def incoming(self, link, delivery, raw):
        if link.addr == '$cbs' or link.addr.endswith('$management'):
            message = Message()
            message.decode(raw)
            delivery.update(Delivery.ACCEPTED)
            delivery.settle()
            answer = self.cbs if link.addr == '$cbs' else self.manage
            answer(link, message)
            return
        self.counts['transfers'] += 1
        condition = self.refusal('transfer', link.addr)
        entity = self.entity(link.addr)
        if entity is None:
            condition = 'amqp:not-found'
        if condition is None:
            for part in split_batch(raw) or [raw]:
                one = Message()
                one.decode(part)
                if entity.sessionful and not one.group_id:
                    condition = 'amqp:not-allowed'
                    break
                self.publish(entity, one)
        if condition:
            delivery.local.condition = Condition(condition, 'as the test wants')
            delivery.update(Delivery.REJECTED)
        else:
            delivery.update(Delivery.ACCEPTED)
        delivery.settle()
        if entity is not None:
            self.pump(entity)

    def publish(self, entity, message):
        now = time.time()
        if entity.fact('RequiresDuplicateDetection') == 'true':
            window = seconds_of(entity.fact('DuplicateDetectionHistoryTimeWindow'), 60.0)
            if now - entity.seen.get(message.id, 0.0) < window:
                self.counts['duplicates'] += 1
                return
            entity.seen[message.id] = now
        if entity.topic:
            for queue in entity.subscriptions.values():
                target = self.entity(queue)
                if target is not None:
                    copy = Message()
                    copy.decode(message.encode())
                    self.publish(target, copy)
                    self.pump(target)
            return
        due = (message.annotations or {}).get(symbol('x-opt-scheduled-enqueue-time'))
        if due is not None and due / 1000 > now:
            heapq.heappush(entity.scheduled, (due / 1000, next(self.tags), message))
        else:
            self.enter(entity, message)

    def enter(self, entity, message, count=0, front=False):
        annotations = dict(message.annotations or {})
        annotations.setdefault(symbol('x-opt-sequence-number'), next(entity.numbers))
        annotations.setdefault(symbol('x-opt-enqueued-time'), timestamp(now_ms()))
        message.annotations = annotations
        held = Held(message, count)
        entity.ready.appendleft(held) if front else entity.ready.append(held)
        if message.ttl:
            held.until = time.time() + message.ttl

    def pump(self, entity, only=None):
        for link in [link for link in entity.consumers if getattr(link, 'waits_until', 0)]:
            self.give_session(entity, link)
        if not entity.ready:
            return
        links = [only] if only is not None else entity.consumers
        while entity.ready:
            sent = False
            for link in list(links):  # in turn
                if link.credit > 0 and not link.state & Endpoint.REMOTE_CLOSED and not getattr(
                        link, 'waits_until', 0):
                    held = self.next_for(entity, link)
                    if held is not None:
                        self.give(entity, link, held)
                        sent = True
            if not sent:
                return

    def next_for(self, entity, link):
        now = time.time()
        at = 0
        while at < len(entity.ready):
            held = entity.ready[at]
            if held.until and held.until <= now:
                del entity.ready[at]
                if entity.fact('DeadLetteringOnMessageExpiration') == 'true':
                    self.bury(entity, held, {'DeadLetterReason': 'TTLExpiredException'})
                continue
            if link.locked_session is None or held.message.group_id == link.locked_session:
                del entity.ready[at]
                return held
            at += 1
        return None

    def give(self, entity, link, held):
        lock = uuid.uuid4()
        message = held.message
        until = time.time() + self.lock_seconds(entity)
        message.annotations[symbol('x-opt-locked-until')] = timestamp(int(until * 1000))
        message.delivery_count = held.count
        delivery = link.delivery(lock.bytes_le)
        link.stream(message.encode())
        link.advance()
        link.used = time.time()
        self.counts['deliveries'] += 1
        if link.snd_settle_mode == Link.SND_SETTLED:
            delivery.settle()
            return
        delivery.lock = str(lock)
        held.until, held.link = until, link
        entity.locked[delivery.lock] = held
        if link.locked_session is None:
            heapq.heappush(self.expiries, (until, entity.name.lower(), delivery.lock))

    def finish(self, address, token, what, info=None):
        entity = self.entity(address)
        held = entity.locked.pop(token, None) if entity is not None else None
        if held is None:
            return False
        held.until = 0.0
        if what == 'abandoned':
            held.count += 1
        most = int(entity.fact('MaxDeliveryCount') or self.settings['max_delivery'])
        if what == 'suspended' or (held.count >= most and what == 'abandoned'):
            reason = {str(key): value for key, value in (info or {}).items()}
            self.bury(entity, held, reason or {'DeadLetterReason': 'MaxDeliveryCountExceeded'})
        elif what in ('abandoned', 'released'):
            # Back at its place: the service delivers by sequence number.
            key = symbol('x-opt-sequence-number')
            number, at = held.message.annotations[key], 0
            while at < len(entity.ready) and entity.ready[at].message.annotations[key] < number:
                at += 1
            entity.ready.insert(at, held)
        self.pump(entity)
        return True

    def bury(self, entity, held, reason):
        base = entity.name.removesuffix(DEAD)
        held.message.properties = {**(held.message.properties or {}), **reason}
        self.counts['dead_letters'] += 1
        dead = self.entity(base + DEAD)
        self.enter(dead, held.message, 0)
        self.pump(dead)

    # ---- requests

    def reply(self, link, request, properties, body=None):
        answers = self.replies.get((link.connection.remote_container, link.addr))
        if answers is not None:
            message = Message(body=body, properties=properties, correlation_id=request.id)
            delivery = answers.delivery(str(next(self.tags)))
            answers.stream(message.encode())
            answers.advance()
            delivery.settle()

    def cbs(self, link, message):
        self.counts['tokens'] += 1
        facts = message.properties
        condition = self.refusal('token', facts['name'])
        try:
            if condition:
                raise ValueError(condition)
            path, until, claims = claims_of(message.body)
            name = path_of(facts['name'])
            if until <= time.time():
                raise ValueError('ExpiredToken')
            if path and name != path and not name.startswith(path + '/'):
                raise ValueError('InvalidAudience')
            link.connection.tokens[name] = (until, claims)
            code, text = 202, 'Accepted'
        except (ValueError, KeyError) as error:
            code, text = 401, str(error)
            print('token refused:', facts, text, flush=True)
            if not self.settings['enforce']:
                code, text = 202, 'Accepted'
        self.reply(link, message, {'status-code': int32(code), 'status-description': text})

    def manage(self, link, message):
        address = link.addr[:-len('/$management')]
        entity, body = self.entity(address), message.body
        operation = message.properties['operation'].split(':')[-1]
        self.counts[operation] += 1
        code, answer = 200, {}
        condition = self.refusal(operation, address)
        if condition:
            code = 503
        else:
            handler = getattr(self, 'op_' + operation.replace('-', '_'), None)
            code, answer = handler(entity, body) if handler is not None else (501, {})
        properties = {'statusCode': int32(code), 'statusDescription': 'OK' if code == 200 else 'failed'}
        if code == 410:
            condition = condition or 'com.microsoft:message-lock-lost'
        if condition:
            properties['errorCondition'] = symbol(condition)
        self.reply(link, message, properties, answer)

    def op_renew_lock(self, entity, body):
        tokens = [str(token) for token in body['lock-tokens']]
        if not all(token in entity.locked for token in tokens):
            return 410, {}
        until = time.time() + self.lock_seconds(entity)
        for token in tokens:
            entity.locked[token].until = until
        return 200, {'expirations': Array(UNDESCRIBED, Data.TIMESTAMP,
                                          *[timestamp(int(until * 1000)) for _ in tokens])}

    def op_peek_message(self, entity, body):
        found = [{'message': held.message.encode()} for held in entity.ready
                 if held.message.annotations[symbol('x-opt-sequence-number')] >= body['from-sequence-number']]
        found = found[:body['message-count']]
        return (200 if found else 204), {'messages': found}

    def op_schedule_message(self, entity, body):
        numbers = []
        for item in body['messages']:
            message = Message()
            message.decode(item['message'])
            numbers.append(next(entity.numbers))
            message.annotations[symbol('x-opt-sequence-number')] = numbers[-1]
            self.publish(entity, message)
        self.pump(entity)
        return 200, {'sequence-numbers': Array(UNDESCRIBED, Data.LONG, *numbers)}

    def op_update_disposition(self, entity, body):
        info = {'DeadLetterReason': body.get('deadletter-reason') or '',
                'DeadLetterErrorDescription': body.get('deadletter-description') or ''}
        done = [self.finish(entity.name, str(token), body['disposition-status'], info)
                for token in body['lock-tokens']]
        return (200 if all(done) else 410), {}

    def op_set_session_state(self, entity, body):
        entity.states[body['session-id']] = bytes(body['session-state'] or b'')
        return 200, {}

    def op_get_session_state(self, entity, body):
        return 200, {'session-state': entity.states.get(body['session-id'])}

    def op_renew_session_lock(self, entity, body):
        session = body['session-id']
        if session not in entity.sessions:
            return 410, {}
        until = entity.until[session] = time.time() + self.lock_seconds(entity)
        for held in entity.locked.values():
            if held.message.group_id == session:
                held.until = until
        return 200, {'expiration': timestamp(int(until * 1000))}


def split_batch(raw):
    """A batch (message format 0x80013700) has one data section a message; [] if it is none."""
    found, at = [], 0
    while at < len(raw):
        if raw[at:at + 2] != b'\x00S':
            return []
        code, form = raw[at + 2], raw[at + 3]
        if form == 0x45:
            at += 4
            continue
        if form in (0xC0, 0xC1, 0xA0):
            size, begin = raw[at + 4], at + 5
        elif form in (0xD0, 0xD1, 0xB0):
            size, begin = int.from_bytes(raw[at + 4:at + 8], 'big'), at + 8
        else:
            return []
        if code == 0x75:
            found.append(raw[begin:begin + size])
        at = begin + size
    return found if found and all(each[:2] == b'\x00S' for each in found) else []


def snapshot(peer):
    """What there is, for tests: by entity, numbers of messages."""
    return {
        entity.name: {'active': len(entity.ready), 'locked': len(entity.locked),
                      'scheduled': len(entity.scheduled), 'sessions': len(entity.sessions),
                      'consumers': len(entity.consumers),
                      'counts': [held.count for held in [*entity.ready, *entity.locked.values()]]}
        for entity in peer.entities.values()
    }


def steady(update):
    """Proton's own, but for timers of sockets that are gone, at which it ends the program."""
    def updated(transport, selectable, now):
        if transport is None:
            selectable.deadline = 0
            selectable.update()
        else:
            update(transport, selectable, now)

    return updated


if __name__ == '__main__':
    from tests.support.servicebus_http import serve

    IOHandler.update = staticmethod(steady(IOHandler.update))
    peer = Peer(int(sys.argv[1]))
    serve(peer, int(sys.argv[2]))
    Container(peer).run()
