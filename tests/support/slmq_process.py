"""SoftLayer Message Queue as a program: `slmq_process.py PORT`.

The service is gone; this plays its protocol from memory, over HTTP with connections that stay. A token is
good for `TOKEN_USES` calls, so that clients show whether they get another one.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, KEY, TOKEN_USES = 'user', 'api-key', 500


class Store:
    def __init__(self):
        self.lock = threading.Lock()
        self.queues = {}
        self.tokens = {}
        self.numbers = itertools.count(1)

    def token(self):
        token = f'token{next(self.numbers)}'
        self.tokens[token] = TOKEN_USES
        return token

    def admits(self, token):
        left = self.tokens.get(token, 0)
        if left > 0:
            self.tokens[token] = left - 1
        return left > 0


STORE = Store()


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1

    def log_message(self, *args):
        pass

    def answer(self, status, value=None, headers=()):
        body = b'' if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, content in headers:
            self.send_header(name, content)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def handle_one(self):
        length = int(self.headers.get('Content-Length') or 0)
        body = json.loads(self.rfile.read(length) or b'{}') if length else {}
        parts = urllib.parse.urlsplit(self.path)
        words = [urllib.parse.unquote(word) for word in parts.path.strip('/').split('/')]
        query = dict(urllib.parse.parse_qsl(parts.query))
        with STORE.lock:
            status, value, headers = self.route(words[2:], query, body)
        self.answer(status, value, headers)

    do_GET = do_POST = do_PUT = do_DELETE = handle_one

    def route(self, words, query, body):
        method = self.command
        if words == ['auth']:
            if (self.headers['X-Auth-User'], self.headers['X-Auth-Key']) != (USER, KEY):
                return 401, {'message': 'who?'}, ()
            return 200, {'status': 'OK'}, [('X-Auth-Token', STORE.token())]
        if not STORE.admits(self.headers['X-Auth-Token'] or ''):
            return 401, {'message': 'token'}, ()
        if words == ['queues']:
            items = [{'name': name} for name in STORE.queues]
            return 200, {'item_count': len(items), 'items': items}, ()
        name, rest = words[1], words[2:]
        if method == 'PUT' and not rest:
            made = name not in STORE.queues
            STORE.queues.setdefault(name, {'timeout': body.get('visibility_timeout', 30), 'messages': {}})
            return (201 if made else 200), {'name': name}, ()
        queue = STORE.queues.get(name)
        if queue is None:
            return 404, {'message': 'no such queue'}, ()
        messages, now = queue['messages'], time.monotonic()
        if not rest:
            if method == 'DELETE':
                del STORE.queues[name]
                return 202, {}, ()
            waiting = sum(message['until'] <= now for message in messages.values())
            return 200, {'name': name, 'message_count': waiting, 'visibility_timeout': queue['timeout']}, ()
        if method == 'POST':
            number = f'm{next(STORE.numbers)}'
            messages[number] = {'body': body['body'], 'until': 0.0}
            return 201, {'id': number}, ()
        if method == 'GET':
            found = [(number, each) for number, each in messages.items() if each['until'] <= now]
            found = found[:int(query.get('batch', 1))]
            for _, each in found:
                each['until'] = now + queue['timeout']
            items = [{'id': number, 'body': each['body']} for number, each in found]
            return 200, {'item_count': len(items), 'items': items}, ()
        if messages.pop(rest[1], None) is None:
            return 404, {'message': 'no such message'}, ()
        return 202, {}, ()


if __name__ == '__main__':
    server = ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.serve_forever()
