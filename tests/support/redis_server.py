"""A private Redis: TCP, unix socket and TLS, with data that survives a crash if asked for."""
from __future__ import annotations

from tests.support import programs
from tests.support.process import Server, exchange, free_ports


class Redis(Server):
    """One standalone server. `durable` syncs every write to disk, so that `restart()` loses nothing.

    Users: the default one without a password; with the password `secret` `worker`, who may touch `app:*`
    only, `untold`, who may not use CLIENT TRACKING, and `looking`, who may not wait with a command either.
    """

    ready_seconds = 10.0

    def __init__(self, certificates=None, durable=True):
        self.program = programs.redis_server()
        super().__init__('redis')
        self.certificates = certificates
        self.durable = durable
        self.port, self.tls_port = free_ports(2)
        self.socket_path = str(self.directory / 'redis.sock')
        self._acl = self.directory / 'users.acl'
        self._acl.write_text('user default on nopass ~* &* +@all\n'
                             'user worker on >secret ~app:* &app:* +@all -@dangerous\n'
                             'user untold on >secret ~* &* +@all -client|tracking\n'
                             'user looking on >secret ~* &* +@all -client|tracking -@blocking\n')

    def command(self):
        command = [*self.program, '--port', str(self.port), '--bind', '127.0.0.1',
                   '--dir', str(self.directory), '--save', '',
                   '--unixsocket', self.socket_path, '--unixsocketperm', '700',
                   '--aclfile', str(self._acl), '--enable-debug-command', 'local',
                   '--notify-keyspace-events', 'KEA', '--repl-diskless-sync-delay', '0']
        if self.certificates is not None:
            certs = self.certificates
            command += ['--tls-port', str(self.tls_port), '--tls-cert-file', str(certs.server),
                        '--tls-key-file', str(certs.server_key), '--tls-ca-cert-file', str(certs.ca),
                        '--tls-auth-clients', 'optional']
        if self.durable:
            command += ['--appendonly', 'yes', '--appendfsync', 'always']
        return command

    def answers(self):
        return exchange(('127.0.0.1', self.port), b'PING\r\n', 5) == b'+PONG'

    def client(self, **options):
        """A redis-py client for the test. Without retries: its defaults hide a dead server for 20 s."""
        import redis  # slow to import, and few tests ask for it

        return redis.Redis(port=self.port, retry=None, socket_timeout=5, decode_responses=True, **options)

    def flush(self):
        """Forget all data and scripts and put changed limits back, for the next test."""
        with self.client() as client:
            client.config_set('maxmemory', '0')
            client.flushall()
            client.script_flush()

    def clients(self):
        """CLIENT LIST without the connection that asks."""
        with self.client() as client:
            own = client.client_id()
            return [row for row in client.client_list() if int(row['id']) != own]

    def url(self, db=0):
        return f'redis://127.0.0.1:{self.port}/{db}'

    def tls_url(self, db=0):
        assert self.certificates is not None
        return f'rediss://localhost:{self.tls_port}/{db}'

    def unix_url(self, db=0):
        return f'redis+socket://{self.socket_path}?virtual_host={db}'
