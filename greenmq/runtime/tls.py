"""TLS as a pure codec between bytes and bytes (ssl.MemoryBIO), and the options that make its context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Union

from greenmq.exceptions import InvalidArgument, UnknownOption

if TYPE_CHECKING:
    import ssl

__all__ = ('TLSCodec', 'TLSOptions')

# Names that kombu, py-amqp and the standard library use for the same thing.
_ALIASES = {
    'cafile': 'ca_certs', 'capath': 'ca_path', 'cert': 'certfile', 'key': 'keyfile', 'cert_file': 'certfile',
    'key_file': 'keyfile', 'keyfile_password': 'password', 'cert_reqs': 'verify',
}  # fmt: skip
_IGNORED = ('ssl_version',)  # the newest version that both sides know is negotiated
_VERIFY = {'none': False, 'cert_none': False, 'optional': True, 'cert_optional': True, 'required': True,
           'cert_required': True}  # fmt: skip


@dataclass(frozen=True)
class TLSOptions:
    """How to speak TLS with a broker. Certificate and name are verified unless that is switched off.

    Attributes:
        ca_certs (str): file with the authorities to trust; the system's if neither this nor `ca_path` is
            given.
        ca_path (str): directory with them.
        certfile (str), keyfile (str), password (str): our own certificate.
        verify (bool): False accepts any certificate (and any name).
        check_hostname (bool): False accepts a valid certificate for another name.
        server_hostname (str): the name to expect, if it is not the host that is dialled.
        ciphers (str): in OpenSSL's notation.
    Source: ssl.create_default_context; kombu's `ssl=` and py-amqp's names of the options.
    """

    ca_certs: str | None = None
    ca_path: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = None
    verify: bool = True
    check_hostname: bool = True
    server_hostname: str | None = None
    ciphers: str | None = None

    @classmethod
    def of(cls, value: TLSish) -> TLSOptions | ssl.SSLContext | None:
        """Make options of what users pass as `ssl=`.

        Arguments:
            value (bool | Mapping | TLSOptions | ssl.SSLContext | None): False and None mean no TLS, True the
                defaults; a mapping may use kombu's names (`cert_reqs`, `ca_certs`, …). An SSLContext is taken
                as it is.
        Raises:
            UnknownOption: a key that means nothing here.
            InvalidArgument: a `cert_reqs` that is none of the module ssl's.
        Switches: no.
        Source: kombu Connection(ssl=…).
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if not isinstance(value, Mapping):
            return value
        known = {field.name for field in fields(cls)}
        options: dict[str, Any] = {}
        for key, setting in value.items():
            name = _ALIASES.get(key, key)
            if name in _IGNORED:
                continue
            if name not in known:
                from difflib import get_close_matches  # for the one who mistyped; the others need not wait

                nearest = get_close_matches(key, [*known, *_ALIASES], 1)
                raise UnknownOption(key, 'ssl', nearest[0] if nearest else None)
            options[name] = _verify(setting) if name == 'verify' else setting
        return cls(**options)

    def context(self) -> ssl.SSLContext:
        """Make the SSLContext. Reads the files, so make it once a connection target and keep it.

        Raises:
            OSError: a file cannot be read (also ssl.SSLError, if it is no certificate or key).
        Switches: no. Blocks for the time it takes to read some files.
        Source: ssl.create_default_context.
        """
        # Looked up now: a context of a class from before a late monkey patch recurses without end in its
        # setters.
        import ssl

        context = ssl.create_default_context(cafile=self.ca_certs, capath=self.ca_path)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif not self.check_hostname:
            context.check_hostname = False
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile, self.password)
        if self.ciphers:
            context.set_ciphers(self.ciphers)
        return context


TLSish = Union[None, bool, Mapping[str, Any], TLSOptions, 'ssl.SSLContext']


def _verify(cert_reqs: Any) -> bool:
    # ssl.CERT_NONE is 0, CERT_OPTIONAL 1 (for a client the same as) CERT_REQUIRED 2; URLs bring them as
    # words.
    if isinstance(cert_reqs, str):
        verify = _VERIFY.get(cert_reqs.lower())
    else:
        verify = {0: False, 1: True, 2: True}.get(cert_reqs)
    if verify is None:
        raise InvalidArgument('cert_reqs', cert_reqs, 'must be CERT_NONE, CERT_OPTIONAL or CERT_REQUIRED')
    return verify


class TLSCodec:
    """One TLS session without a socket: ciphertext in and out, plain text out and in. Nothing here waits.

    Arguments:
        context (ssl.SSLContext): of a client, or of a server with `server_side`.
        server_hostname (str | None): the name to ask for and to verify.
    Source: ssl.SSLObject.
    """

    __slots__ = ('_incoming', '_object', '_outgoing', '_want_read', '_zero_return')

    def __init__(
        self, context: ssl.SSLContext, server_hostname: str | None, server_side: bool = False
    ) -> None:
        import ssl

        self._want_read = ssl.SSLWantReadError
        self._zero_return = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)

    def handshake(self) -> bool:
        """Go on with the handshake.

        Returns:
            bool: True when it is done; False if it needs more from the other side.
        Raises:
            ssl.SSLError: it failed; `outgoing()` may hold an alert for the other side.
        Switches: no.
        Source: ssl.SSLObject.do_handshake.
        """
        try:
            self._object.do_handshake()
        except self._want_read:
            return False
        return True

    def feed(self, ciphertext: bytes) -> None:
        """Take what came from the other side; b'' is its end.

        Switches: no.
        Source: ssl.MemoryBIO.write.
        """
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            self._incoming.write_eof()

    def decrypt(self, n: int) -> bytes | None:
        """Up to n bytes of plain text of what was fed.

        Returns:
            bytes | None: b'' at the end, None if more must be fed first.
        Raises:
            ssl.SSLError: the other side broke the protocol.
        Switches: no.
        Source: ssl.SSLObject.read.
        """
        parts: list[bytes] = []
        size = 0
        try:
            # One call gives one record at most (16 KiB).
            while size < n:
                part = self._object.read(n - size)
                if not part:
                    break
                parts.append(part)
                size += len(part)
        except self._want_read:
            if not parts:
                return None
        except self._zero_return:
            pass  # the end, said properly or not: the protocols above have lengths and notice what is missing
        return parts[0] if len(parts) == 1 else b''.join(parts)

    def encrypt(self, data: bytes | bytearray | memoryview) -> None:
        """Turn plain text into ciphertext, which `outgoing` then gives.

        Switches: no.
        Source: ssl.SSLObject.write.
        """
        view = memoryview(data)
        while len(view):
            view = view[self._object.write(view) :]

    def say_goodbye(self) -> None:
        """Make the alert that ends the session; `outgoing` then gives it.

        Switches: no.
        Source: ssl.SSLObject.unwrap.
        """
        import ssl

        try:
            self._object.unwrap()
        except ssl.SSLError:
            pass  # it wants the other side's answer, or there was no session yet: nothing waits for either

    def outgoing(self) -> bytes:
        """Take the ciphertext that shall be sent; b'' if there is none.

        Switches: no.
        Source: ssl.MemoryBIO.read.
        """
        return self._outgoing.read() if self._outgoing.pending else b''
