"""TLS as a pure codec between bytes and bytes (ssl.MemoryBIO), and the options that make its context."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Union

from greenmq.exceptions import InvalidArgument, UnknownOption

if TYPE_CHECKING:
    import ssl

__all__ = ('TLSCodec', 'TLSOptions')

# Names that kombu, py-amqp and the standard library use for the same thing.
_ALIASES = {
    'cafile': 'ca_certs', 'capath': 'ca_path', 'cert': 'certfile', 'key': 'keyfile', 'cert_file': 'certfile',
    'key_file': 'keyfile', 'keyfile_password': 'password', 'cert_reqs': 'verify', 'cadata': 'ca_data',
}  # fmt: skip
# The newest version that both sides know is negotiated.
_IGNORED = ('ssl_version', 'version')
_WORDS = {'1': True, 'true': True, 'yes': True, 'on': True, '0': False, 'false': False, 'no': False,
          'off': False, '': False}  # fmt: skip
_VERIFY = {'none': False, 'cert_none': False, 'optional': True, 'cert_optional': True, 'required': True,
           'cert_required': True}  # fmt: skip


@dataclass(frozen=True)
class TLSOptions:
    """How to speak TLS with a broker. Certificate and name are verified unless that is switched off.

    Attributes:
        ca_certs (str): file with the authorities to trust; the system's if neither this nor `ca_path` is
            given.
        ca_path (str): directory with them.
        ca_data (str): their certificates themselves, as PEM.
        certfile (str), keyfile (str), password (str): our own certificate.
        verify (bool): False accepts any certificate (and any name).
        check_hostname (bool): False accepts a valid certificate for another name.
        server_hostname (str): the name to expect, if it is not the host that is dialled.
        ciphers (str): in OpenSSL's notation.
    Source: ssl.create_default_context; kombu's `ssl=` and py-amqp's names of the options.
    """

    ca_certs: str | None = None
    ca_path: str | None = None
    ca_data: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = field(default=None, repr=False)
    verify: bool = True
    check_hostname: bool = True
    server_hostname: str | None = None
    ciphers: str | None = None

    @classmethod
    def of(cls, value: TLSish) -> TLSOptions | ssl.SSLContext | None:
        """Make options of what users pass as `ssl=`.

        Arguments:
            value (bool | Mapping | TLSOptions | ssl.SSLContext | None): False and None mean no TLS, True the
                defaults, as do the words true, yes, on, 1 and their opposites; a mapping may use kombu's and
                redis-py's names (`cert_reqs`, `ca_certs`, …), with ``ssl_`` before them or without. An
                SSLContext is taken as it is.
        Raises:
            UnknownOption: a key that means nothing here.
            InvalidArgument: none of all that, or an option that has no such value.
        Source: kombu Connection(ssl=…).
        """
        if value is None:
            return None
        if isinstance(value, (bool, int, str)):
            return cls() if _truth('ssl', value) else None
        if not isinstance(value, Mapping):
            # by what it can: after a late monkey patch there are two classes of that name
            if isinstance(value, TLSOptions) or hasattr(value, 'wrap_bio'):
                return value
            limit = 'must be true or false, a mapping of options, or an ssl.SSLContext'
            raise InvalidArgument('ssl', value, limit)
        known = {field.name for field in fields(cls)}
        options: dict[str, Any] = {}
        for key, setting in value.items():
            short = str(key).removeprefix('ssl_')
            name = _ALIASES.get(short, short)
            if key in _IGNORED or short in _IGNORED:
                continue
            if name not in known:
                from difflib import get_close_matches  # for the one who mistyped; the others need not wait

                nearest = get_close_matches(short, [*known, *_ALIASES], 1)
                raise UnknownOption(key, 'ssl', nearest[0] if nearest else None)
            options[name] = _checked(str(key), name, setting)
        return cls(**options)

    def context(self) -> ssl.SSLContext:
        """Make the SSLContext. Reads the files, so make it once a connection target and keep it.

        Raises:
            InvalidArgument: a file cannot be read, or holds something else. Names the option and the file.
        Switches: no. Blocks for the time it takes to read some files.
        Source: ssl.create_default_context.
        """
        # Looked up now: a context of a class from before a late monkey patch calls itself without end.
        import ssl

        for name in ('ca_certs', 'certfile', 'keyfile'):
            _look_at(name, getattr(self, name))
        if self.ca_path and not os.path.isdir(self.ca_path):
            raise InvalidArgument('ssl option ca_path', self.ca_path, 'is no directory')
        try:
            context = ssl.create_default_context(
                cafile=self.ca_certs, capath=self.ca_path, cadata=self.ca_data
            )
        except (OSError, ValueError) as exc:
            name = 'ca_certs' if self.ca_certs else 'ca_data'
            limit = f'holds no certificates in PEM: {self.ca_certs or "text"!r} ({_reason(exc)})'
            raise InvalidArgument(f'ssl option {name}', self.ca_certs or '...', limit) from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif not self.check_hostname:
            context.check_hostname = False
        if self.certfile:
            self._load_own(context)
        elif self.keyfile:
            raise InvalidArgument('ssl option certfile', None, f'is missing: keyfile is {self.keyfile!r}')
        if self.ciphers:
            try:
                context.set_ciphers(self.ciphers)
            except ssl.SSLError as exc:
                limit = f'names no cipher ({_reason(exc)})'
                raise InvalidArgument('ssl option ciphers', self.ciphers, limit) from None
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        where = os.fspath(self.keyfile or self.certfile or '')

        def missing() -> str:
            # without this, OpenSSL asks for it on the terminal, and the whole process waits
            limit = f'{where!r} is encrypted, and its password is not given (keyfile_password)'
            raise InvalidArgument('ssl option keyfile', where, limit)

        try:
            context.load_cert_chain(self.certfile or '', self.keyfile, self.password or missing)
        except InvalidArgument:
            raise
        except (OSError, ValueError) as exc:
            if getattr(exc, 'reason', None) == 'KEY_VALUES_MISMATCH':
                limit = f'{where!r} is not the key of the certificate {self.certfile!r}'
            else:
                limit = (
                    f'{where!r} cannot be used with certfile {self.certfile!r} ({_reason(exc)}): both must '
                    'be PEM, and keyfile_password must fit'
                )
            raise InvalidArgument('ssl option keyfile', where, limit) from None


TLSish = Union[None, bool, Mapping[str, Any], TLSOptions, 'ssl.SSLContext']


def _truth(what: str, value: Any) -> bool:
    found = _WORDS.get(value.strip().lower()) if isinstance(value, str) else {0: False, 1: True}.get(value)
    if found is None:
        raise InvalidArgument(what, value, 'is neither true nor false')
    return found


def _checked(key: str, name: str, setting: Any) -> Any:
    if name == 'verify':
        return _verify(setting)
    if name == 'check_hostname':
        return True if setting is None else _truth(f'ssl option {key}', setting)
    if name == 'password':
        if not (setting is None or isinstance(setting, (str, bytes)) or callable(setting)):
            raise InvalidArgument(f'ssl option {key}', '...', 'must be text')
        return setting
    if not (setting is None or isinstance(setting, (str, bytes, os.PathLike))):
        raise InvalidArgument(f'ssl option {key}', setting, 'must be text, or a path')
    return setting


def _look_at(name: str, path: Any) -> None:
    if not path:
        return
    try:
        with open(path, 'rb') as file:
            file.read(1)
    except OSError as exc:
        # in full: what is too long of a value is cut
        limit = f'names the file {os.fspath(path)!r}, which cannot be read ({exc.strerror or exc})'
        raise InvalidArgument(f'ssl option {name}', os.fspath(path), limit) from None


def _reason(error: Exception) -> str:
    return str(getattr(error, 'reason', None) or error).lower().replace('_', ' ')


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
        Source: ssl.SSLObject.do_handshake.
        """
        try:
            self._object.do_handshake()
        except self._want_read:
            return False
        return True

    def feed(self, ciphertext: bytes) -> None:
        """Take what came from the other side; b'' is its end.

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

        Source: ssl.SSLObject.write.
        """
        view = memoryview(data)
        while len(view):
            view = view[self._object.write(view) :]

    def say_goodbye(self) -> None:
        """Make the alert that ends the session; `outgoing` then gives it.

        Source: ssl.SSLObject.unwrap.
        """
        import ssl

        try:
            self._object.unwrap()
        except ssl.SSLError:
            pass  # it wants the other side's answer, or there was no session yet: nothing waits for either

    def outgoing(self) -> bytes:
        """Take the ciphertext that shall be sent; b'' if there is none.

        Source: ssl.MemoryBIO.read.
        """
        return self._outgoing.read() if self._outgoing.pending else b''
