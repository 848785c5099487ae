"""A private RabbitMQ node with its own epmd, cookie, data and TLS listener."""
from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import urllib.parse

from tests.support import green, programs
from tests.support.process import (
    Server,
    end,
    exchange,
    free_ports,
    need,
    popen,
    run,
    wait_until,
)

#: Called directly: the wrappers in /usr/sbin change the user.
BIN = '/usr/lib/rabbitmq/bin'
PLUGINS = (
    '[rabbitmq_management,rabbitmq_amqp1_0,rabbitmq_consistent_hash_exchange,rabbitmq_auth_mechanism_ssl].'
)
AMQP_HEADER = b'AMQP\x00\x00\x09\x01'

#: With a name of its own: else it looks up that of the machine for each connection, and a look-up without an
#: answer holds up all that want to connect for 5 s (a tree whose /etc/hosts does not have it).
CONF = '''\
cluster_name = greenmq
loopback_users = none
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
ssl_cert_login_from = common_name
log.file.level = info
'''
CONF_TLS = '''\
listeners.ssl.1 = 127.0.0.1:{amqps}
ssl_options.cacertfile = {certs.ca}
ssl_options.certfile = {certs.server}
ssl_options.keyfile = {certs.server_key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
'''


class Management(http.client.HTTPConnection):
    """HTTP on a cooperative socket: the hub goes on while the broker thinks."""

    def connect(self):
        self.sock = green.socket.create_connection((self.host, self.port), timeout=self.timeout)


class RabbitMQ(Server):
    """One node, ready 3–7 s after `start()`: one a test run, a virtual host a test."""

    ready_seconds = 60.0

    def __init__(self, certificates=None, tree=None):
        self._tree = programs.tree() if programs.CURRENT else tree
        if self._tree is None:
            need('epmd', f'{BIN}/rabbitmq-server')
        super().__init__('rabbitmq')
        self.certificates = certificates
        self.port, self.tls_port, self.management_port, self._dist_port, self._epmd_port = free_ports(5)
        self.nodename = f'greenmq{self.port}@localhost'
        self._epmd = None
        cookie = self.directory / '.erlang.cookie'
        cookie.write_text('greenmq-test-suite')
        cookie.chmod(0o400)
        (self.directory / 'enabled_plugins').write_text(PLUGINS)
        conf = CONF.format(management=self.management_port)
        if certificates is not None:
            conf += CONF_TLS.format(amqps=self.tls_port, certs=certificates)
        (self.directory / 'rabbitmq.conf').write_text(conf)

    def environment(self):
        here = str(self.directory)
        env = {name: value for name, value in os.environ.items()
               if not name.startswith('RABBITMQ_') and name != 'NOTIFY_SOCKET'}
        return env | {
            'HOME': here,
            'ERL_EPMD_PORT': str(self._epmd_port), 'ERL_EPMD_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODENAME': self.nodename,
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1', 'RABBITMQ_NODE_PORT': str(self.port),
            'RABBITMQ_DIST_PORT': str(self._dist_port),
            'RABBITMQ_MNESIA_BASE': f'{here}/mnesia',
            'RABBITMQ_LOG_BASE': f'{here}/log', 'RABBITMQ_LOGS': f'{here}/log/rabbit.log',
            'RABBITMQ_CONFIG_FILE': f'{here}/rabbitmq.conf',
            'RABBITMQ_CONF_ENV_FILE': '/dev/null',
            'RABBITMQ_ENABLED_PLUGINS_FILE': f'{here}/enabled_plugins',
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': '-kernel inet_dist_use_interface {127,0,0,1} +S 2:2',
            'RABBITMQ_CTL_ERL_ARGS': '+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}',
            # The start script then becomes the VM: a kill of our child is a kill of the broker.
            'RUNNING_UNDER_SYSTEMD': '1',
            'ERL_CRASH_DUMP': f'{here}/erl_crash.dump',
        }

    def command(self):
        return programs.inside(self._tree, f'{BIN}/rabbitmq-server')

    def start_epmd(self):
        if self._epmd is None or self._epmd.poll() is not None:
            # In the foreground and ours: otherwise the node leaves a daemon behind that nobody stops.
            with open(self.directory / 'epmd.log', 'ab') as output:
                self._epmd = popen(
                    programs.inside(
                        self._tree, 'epmd', '-port', str(self._epmd_port), '-address', '127.0.0.1'),
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)

    def start(self):
        self.start_epmd()
        super().start()

    def stop(self):
        super().stop()
        if self._epmd is not None:
            end(self._epmd)

    def logs(self):
        return [self.log, self.directory / 'log' / 'rabbit.log']

    def answers(self):
        return exchange(('127.0.0.1', self.port), AMQP_HEADER) == b'\x01' and \
            exchange(('127.0.0.1', self.management_port), b'GET / HTTP/1.0\r\n\r\n') == b'H'

    def ctl(self, *arguments):
        """`rabbitmqctl`, 0.4 s; other greenlets run on."""
        command = programs.inside(self._tree, f'{BIN}/rabbitmqctl', '-q', *arguments)
        return run(command, env=self.environment(), cwd=self.directory)

    def api(self, method, path, body=None, **headers):
        """One call of the management HTTP API; gives the decoded answer, None if there is none."""
        token = base64.b64encode(b'guest:guest').decode()
        headers = {'Authorization': f'Basic {token}', 'Content-Type': 'application/json', **headers}
        # The end of a virtual host with a thousand queues takes a while on a busy machine.
        connection = Management('127.0.0.1', self.management_port, timeout=60)
        try:
            connection.request(method, f'/api/{path}', json.dumps(body or {}), headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status < 300, f'{method} {path}: {answer.status} {data.decode(errors="replace")}'
        return json.loads(data) if data else None

    def create_vhost(self, name):
        self.api('PUT', f'vhosts/{_quoted(name)}')

    def delete_vhost(self, name):
        self.api('DELETE', f'vhosts/{_quoted(name)}')

    def allow_user(self, name, vhost, password=''):
        """May do everything there. Without a password a client certificate may be its login."""
        self.api('PUT', f'users/{name}', {'password': password, 'tags': ''})
        everything = dict.fromkeys(('configure', 'write', 'read'), '.*')
        self.api('PUT', f'permissions/{_quoted(vhost)}/{name}', everything)

    def list(self, what, *columns, vhost=None):
        """Rows of `rabbitmqctl list_<what>` as dicts: what the broker counts, and at once."""
        where = ['-p', vhost] if vhost is not None else []
        return json.loads(self.ctl(f'list_{what}', *where, *columns, '--formatter', 'json'))

    def list_connections(self):
        # As text: in JSON the pid has a form that close_connection does not take.
        columns = ('pid', 'name', 'vhost', 'channels', 'state')
        text = self.ctl('list_connections', *columns, '--no-table-headers')
        return [dict(zip(columns, line.split('\t'), strict=True)) for line in text.splitlines()]

    def wait_connections(self, count, seconds=10):
        wait_until(lambda: len(self.list_connections()) == count, seconds,
                   f'{count} connections at the broker')

    def close_connection(self, pid, reason='closed by the test'):
        self.ctl('close_connection', pid, reason)

    def sync(self):
        """Before a kill that durable queues of the last moment are to survive: mnesia writes them late.

        Tried on 3.10: of 15 queues declared just before a SIGKILL one was gone, its confirmed message too.
        """
        self.ctl('eval', 'disk_log:sync(latest_log).')

    def alarm(self, on):
        """Memory alarm: publishers are blocked while it is on."""
        self.ctl('set_vm_memory_high_watermark', '0' if on else '0.4')

    def url(self, vhost='/'):
        return f'amqp://guest:guest@127.0.0.1:{self.port}/{_quoted(vhost)}'

    def amqp10_url(self, vhost='/'):
        """By AMQP 1.0 alone."""
        return f'qpid://guest:guest@127.0.0.1:{self.port}/{_quoted(vhost)}'

    def qpid_url(self, vhost='/'):
        """By AMQP 1.0, with the management plugin to declare by."""
        return f'{self.amqp10_url(vhost)}?management_url=http://127.0.0.1:{self.management_port}'

    def tls_url(self, vhost='/'):
        assert self.certificates is not None
        return f'amqps://guest:guest@localhost:{self.tls_port}/{_quoted(vhost)}'


def _quoted(name):
    return urllib.parse.quote(name, safe='')
