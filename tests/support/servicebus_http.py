"""The HTTP side of the program that plays Azure Service Bus: entities as Atom entries, and ``POST /-/``.

The latter takes ``{"do": …, "with": {…}}``: *set* (settings of the peer), *counts*, *snapshot*, *create*,
and what `servicebus_process.Peer` has as ``do_…``.
"""
from __future__ import annotations

import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.etree import ElementTree

SB = 'http://schemas.microsoft.com/netservices/2010/10/servicebus/connect'
COUNTS = 'http://schemas.microsoft.com/netservices/2011/06/servicebus'
ATOM = 'http://www.w3.org/2005/Atom'


def described(body):
    """Kind and facts of the entity in an Atom entry."""
    root = ElementTree.fromstring(body)
    content = root.find(f'{{{ATOM}}}content')
    found = content[0]
    return found.tag.partition('}')[2], {each.tag.partition('}')[2]: each.text or '' for each in found}


def entry(name, kind, facts, numbers=None):
    inner = ''.join(f'<{key}>{value}</{key}>' for key, value in facts.items())
    if numbers is not None:
        inner += f'<MessageCount>{sum(numbers.values())}</MessageCount><CountDetails xmlns:d2p1="{COUNTS}">'
        inner += ''.join(f'<d2p1:{key}>{value}</d2p1:{key}>' for key, value in numbers.items())
        inner += '</CountDetails>'
    return (f'<entry xmlns="{ATOM}"><title type="text">{name}</title>'
            f'<content type="application/xml"><{kind} xmlns="{SB}">{inner}</{kind}></content></entry>')


def serve(peer, port):
    """Answer requests in threads of its own."""

    def ask(do, values):
        command = {'do': do, 'with': values, 'done': threading.Event()}
        peer.ask(command)
        command['done'].wait(10)
        if 'error' in command:
            raise RuntimeError(command['error'])
        return command.get('answer')

    def safely(function):
        return ask('call', {'function': function})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        wbufsize = -1

        def log_message(self, *args):
            pass

        def answer(self, status, body=''):
            data = body.encode()
            self.send_response(status)
            self.send_header('Content-Type', 'application/atom+xml;type=entry;charset=utf-8')
            self.send_header('Content-Length', str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

        def refused(self, status, detail):
            self.answer(status, f'<Error><Code>{status}</Code><Detail>{detail}</Detail></Error>')

        def do(self):
            length = int(self.headers.get('Content-Length') or 0)
            body = self.rfile.read(length) if length else b''
            parts = urllib.parse.urlsplit(self.path)
            path = urllib.parse.unquote(parts.path).strip('/')
            if path == '-':
                try:
                    return self.answer(200, json.dumps(self.control(json.loads(body))))
                except Exception as error:  # the test shows it
                    return self.answer(500, json.dumps(repr(error)))
            peer.counts['http'] += 1
            status = self.unauthorized()
            if status:
                return self.refused(status, 'Manage claim is required')
            condition = peer.refusal('http', path)
            if condition:
                return self.refused(int(condition), 'as the test wants')
            if path.startswith('$Resources/'):
                return self.listed(path, dict(urllib.parse.parse_qsl(parts.query)))
            topic, _, subscription = path.partition('/Subscriptions/')
            if subscription:
                return self.subscription(topic, subscription, body)
            return self.entity(path, body)

        do_GET = do_PUT = do_DELETE = do_POST = do

        def unauthorized(self):
            from tests.support.servicebus_process import claims_of

            try:
                _, until, claims = claims_of((self.headers['Authorization'] or '').removeprefix('Bearer '))
            except (ValueError, KeyError):
                return 401
            if until <= time.time():
                return 401
            return 0 if 'Manage' in claims else 401

        def control(self, command):
            do, values = command['do'], command.get('with') or {}
            if do == 'set':
                peer.settings.update(values)
                return None
            if do == 'counts':
                found = dict(peer.counts)
                if values.get('clear'):
                    peer.counts.clear()
                return {**found, 'open': len(peer.connections)}
            if do == 'snapshot':
                from tests.support.servicebus_process import snapshot

                return safely(lambda: snapshot(peer))
            if do == 'create':
                safely(lambda: peer.create(**values) and None)
                return None
            return ask(do, values)

        def entity(self, path, body):
            found = peer.entities.get(path.lower())
            if self.command == 'GET':
                if found is None:
                    # The service answers an empty feed for what is not there.
                    return self.answer(200, f'<feed xmlns="{ATOM}"><title type="text">None</title></feed>')
                return self.answer(200, self.shown(found))
            if self.command == 'DELETE':
                if found is None:
                    return self.refused(404, 'no such entity')
                safely(lambda: peer.delete(path))
                return self.answer(200)
            if found is not None and self.headers['If-Match'] is None:
                return self.refused(409, 'SubCode=40900. Conflict: it exists already')
            kind, facts = described(body)
            safely(lambda: peer.create(path, facts, kind == 'TopicDescription') and None)
            return self.answer(201, entry(path, kind, facts))

        def shown(self, found):
            kind = 'TopicDescription' if found.topic else 'QueueDescription'
            dead = peer.entities.get(f'{found.name.lower()}/$deadletterqueue')
            numbers = {'ActiveMessageCount': len(found.ready) + len(found.locked),
                       'DeadLetterMessageCount': len(dead.ready) if dead else 0,
                       'ScheduledMessageCount': len(found.scheduled)}
            facts = {'LockDuration': f'PT{peer.lock_seconds(found):g}S', **found.facts}
            return entry(found.name, kind, facts, numbers)

        def listed(self, path, query):
            topics = path.lower().endswith('topics')
            names = sorted(each.name for each in list(peer.entities.values())
                           if each.topic == topics and '/' not in each.name)
            skip, top = int(query.get('$skip', 0)), int(query.get('$top', 100))
            shown = ''.join(self.shown(peer.entities[name.lower()]) for name in names[skip:skip + top])
            self.answer(200, f'<feed xmlns="{ATOM}">{shown}</feed>')

        def subscription(self, topic, name, body):
            found = peer.entities.get(topic.lower())
            if found is None:
                return self.refused(404, 'no such topic')
            if self.command == 'DELETE':
                gone = found.subscriptions.pop(name.lower(), None)
                return self.answer(200) if gone else self.refused(404, 'no such subscription')
            if name.lower() in found.subscriptions:
                return self.refused(409, 'it exists already')
            _, facts = described(body)
            target = facts['ForwardTo'].rpartition('/')[2]
            if target.lower() not in peer.entities:
                return self.refused(400, 'ForwardTo names no entity')
            found.subscriptions[name.lower()] = target
            return self.answer(201, entry(name, 'SubscriptionDescription', facts))

    server = ThreadingHTTPServer(('127.0.0.1', port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
