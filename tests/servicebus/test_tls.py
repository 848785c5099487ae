"""The service's own way: AMQP over TLS, verified, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from greenmq import Connection
from tests.support.cloud import declared, publish
from tests.support.process import end, free_ports, popen
from tests.support.servicebus import KEY, POLICY

pytestmark = pytest.mark.slow

#: Takes TLS off: the peer speaks plain.
TERMINATOR = """
import socket, ssl, sys, threading
port, upstream, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listener = socket.create_server(('127.0.0.1', int(port)))
print('ready', flush=True)

def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for each in (source, sink):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

def serve(raw):
    try:
        there = context.wrap_socket(raw, server_side=True)
    except OSError:
        return
    here = socket.create_connection(('127.0.0.1', int(upstream)))
    threading.Thread(target=pump, args=(here, there), daemon=True).start()
    pump(there, here)

while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def url(bus, certificates):
    port, = free_ports(1)
    child = popen([sys.executable, '-c', TERMINATOR, str(port), str(bus.port), str(certificates.server),
                   str(certificates.server_key)], stdout=subprocess.PIPE)
    child.stdout.readline()
    yield f'azureservicebus://{POLICY}:{KEY}@localhost:{port}?management_url=http://127.0.0.1:{bus.http_port}'
    end(child)
    child.stdout.close()


def test_messages_over_tls(url, certificates, name):
    with Connection(url, ssl={'ca_certs': str(certificates.ca)}) as connection:
        queue = declared(connection, name)
        publish(connection, name, ['x'])
        assert queue.get(no_ack=True).payload == 'x'


def test_a_certificate_that_nobody_vouches_for_is_refused(url):
    with pytest.raises(OSError, match='(?i)certificate'):
        Connection(url, connect_timeout=5).connect()
