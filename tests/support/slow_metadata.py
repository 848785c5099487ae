"""The metadata service of a machine at Amazon, which takes its time: `slow_metadata.py SECONDS`.

Prints its port.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEYS = {'Code': 'Success', 'Type': 'AWS-HMAC', 'AccessKeyId': 'key', 'SecretAccessKey': 'secret',
        'Token': 'token', 'Expiration': '2099-01-01T00:00:00Z', 'LastUpdated': '2020-01-01T00:00:00Z'}


class Handler(BaseHTTPRequestHandler):

    def log_message(self, *args):
        pass

    def do_PUT(self):
        self.answer('token')

    def do_GET(self):
        if self.path.rstrip('/').endswith('security-credentials'):
            self.answer('role')
        elif 'security-credentials' in self.path:
            time.sleep(float(sys.argv[1]))
            self.answer(json.dumps(KEYS))
        else:
            self.send_error(404)

    def answer(self, text):
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == '__main__':
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
