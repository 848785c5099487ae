"""A test CA with a server's and a client's certificate, made by openssl into a directory (0.6 s)."""
from __future__ import annotations

import pathlib
import ssl

from tests.support.process import need, run


class Certificates:
    """Paths `ca`, `server`, `server_key`, `client`, `client_key`, and contexts made of them."""

    def __init__(self, directory):
        need('openssl')
        self.directory = pathlib.Path(directory)
        self.ca = self.directory / 'ca.pem'
        self.server = self.directory / 'server.pem'
        self.server_key = self.directory / 'server.key'
        self.client = self.directory / 'client.pem'
        self.client_key = self.directory / 'client.key'
        # Python 3.13 holds an authority to RFC 5280: it must say what its key is for.
        self._openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '3650',
                      '-subj', '/CN=test CA', '-addext', 'keyUsage=critical,keyCertSign,cRLSign',
                      '-keyout', 'ca.key', '-out', 'ca.pem')
        self._issue('server', 'localhost', 'subjectAltName=DNS:localhost,IP:127.0.0.1\n'
                                           'extendedKeyUsage=serverAuth\n')
        self._issue('client', 'greenmq-client', 'extendedKeyUsage=clientAuth\n')

    def _openssl(self, *arguments):
        run(['openssl', *arguments], cwd=self.directory)

    def _issue(self, name, common_name, extensions):
        (self.directory / f'{name}.ext').write_text(f'{extensions}authorityKeyIdentifier=keyid\n')
        self._openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', f'/CN={common_name}',
                      '-keyout', f'{name}.key', '-out', f'{name}.csr')
        self._openssl('x509', '-req', '-in', f'{name}.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key',
                      '-CAcreateserial', '-days', '3650', '-out', f'{name}.pem', '-extfile', f'{name}.ext')

    def client_options(self):
        """The `ssl` argument of a Connection that shows our client certificate."""
        return {'ca_certs': str(self.ca), 'certfile': str(self.client), 'keyfile': str(self.client_key),
                'cert_reqs': ssl.CERT_REQUIRED, 'server_hostname': 'localhost'}
