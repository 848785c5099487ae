"""Serializers: name → (encode, decode, content type), and which content is decoded at all.

=======  ==============================  =============================================================
name     content type                    decoded
=======  ==============================  =============================================================
json     application/json                yes; this is the default
yaml     application/x-yaml              if the consumer accepts it, or it was enabled; greenmq[yaml]
msgpack  application/x-msgpack           if the consumer accepts it, or it was enabled; greenmq[msgpack]
pickle   application/x-python-serialize  only if the consumer names it in `accept` (P41)
raw      application/data                bytes, as they are
=======  ==============================  =============================================================

Reading a pickle runs whatever code its author put in, so no message, no default and no switch of the process
turns it on: only a consumer that names it.

Nothing here switches.

Source: kombu.serialization.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from io import BytesIO
from typing import Any, NamedTuple

from greenmq.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    KombuError,
    SerializerNotInstalled,
    also,
)
from greenmq.utils import json
from greenmq.utils.compat import load_entrypoints
from greenmq.utils.encoding import bytes_to_str, str_to_bytes, text_encoding

__all__ = ('dumps', 'loads', 'pickle', 'register', 'unregister')

#: Stands for "no argument given".
NOTSET = object()

#: Content encodings whose content is handed out as bytes.
SKIP_DECODE = frozenset(['binary', 'ascii-8bit'])

#: Content encodings with which a body need not be converted: what decoders of text read by themselves.
_UTF8 = frozenset(['utf-8', 'utf8', 'UTF-8', 'us-ascii', 'ascii', *SKIP_DECODE])

#: Stands for "neither content type nor content encoding": nobody has said that it is text.
_UNSAID = 'unsaid'

#: Content types that are accepted everywhere: nothing is decoded in them but text.
TRUSTED_CONTENT = frozenset(['application/data', 'application/text'])

#: What `enable_insecure_serializers` enables when nothing is named.
INSECURE = ('pickle', 'yaml', 'msgpack')

#: Content types whose decoding runs the sender's code.
EXECUTABLE = frozenset(['application/x-python-serialize'])

#: Version of the format in which pickles are written.
pickle_protocol = int(os.environ.get('PICKLE_PROTOCOL', pickle.DEFAULT_PROTOCOL))

pickle_load = pickle.load


class codec(NamedTuple):
    """How a serializer writes.

    Source: kombu.serialization.codec.
    """

    content_type: str
    content_encoding: str
    encoder: Callable[[Any], Any]


class SerializerRegistry:
    """Serializers by name and by content type. Those of installed packages are loaded at the first use.

    Source: kombu.serialization.SerializerRegistry.
    """

    def __init__(self) -> None:
        self._encoders: dict[str, codec] = {}
        self._decoders: dict[str, Callable[[Any], Any]] = {}
        self._default_encode: Callable[[Any], Any] | None = None
        self._default_content_type: str | None = None
        self._default_content_encoding: str | None = None
        self._disabled_content_types: set[str] = set()
        self._textual: set[str] = set()  # content types whose bodies are text, in some charset
        self.type_to_name: dict[str, str] = {}
        self.name_to_type: dict[str, str] = {}
        # Entry points still to be looked through.
        self._plugins: tuple[str, ...] = ()

    def register(
        self,
        name: str,
        encoder: Callable[[Any], Any] | None,
        decoder: Callable[[Any], Any] | None,
        content_type: str,
        content_encoding: str = 'utf-8',
    ) -> None:
        """Make a serializer known; one of the same name or content type is replaced.

        Arguments:
            encoder (Callable): object → str or bytes; None: it can't write.
            decoder (Callable): the body of a message, str or bytes → object; None: it can't read.
            content_type (str): stands in the message.
            content_encoding (str): stands in the message; 'binary' for what is not text.
        """
        if encoder:
            self._encoders[name] = codec(content_type, content_encoding, encoder)
        if decoder:
            self._decoders[content_type] = decoder
        self.type_to_name[content_type] = name
        self.name_to_type[name] = content_type
        if content_encoding.lower() in SKIP_DECODE:
            self._textual.discard(content_type)
        else:
            self._textual.add(content_type)

    def unregister(self, name: str) -> None:
        """Forget a serializer, both ways.

        Raises:
            SerializerNotInstalled: there is none of that name.
        """
        content_type = self._type_of(name)
        del self.name_to_type[name]
        self._encoders.pop(name, None)
        self._decoders.pop(content_type, None)
        self.type_to_name.pop(content_type, None)

    def enable(self, name: str) -> None:
        """Allow content of this serializer (or content type) to consumers that accept everything.

        Raises:
            SerializerNotInstalled: there is none of that name; a KeyError as well.
        """
        self._disabled_content_types.discard(self._known_type(name))

    def disable(self, name: str) -> None:
        """Refuse content of this serializer (or content type) to consumers that do not name it in `accept`.

        Raises:
            SerializerNotInstalled: there is none of that name; a KeyError as well.
        """
        self._disabled_content_types.add(self._known_type(name))

    def _known_type(self, name: str) -> str:
        if '/' in name:
            return name
        try:
            return self._type_of(name)
        except SerializerNotInstalled as exc:
            raise also(SerializerNotInstalled, KeyError)(str(exc)) from None

    def known_names(self) -> Mapping[str, str]:
        """Name → content type, of all that are installed."""
        if self._plugins:
            self._load_plugins()
        return self.name_to_type

    def accepted_type(self, name: str) -> str:
        """The content type that a consumer names, by its serializer or by itself.

        Raises:
            SerializerNotInstalled: there is no serializer of that name.
        """
        return self.canonical(name) if '/' in name else self._type_of(name)

    def _type_of(self, name: str) -> str:
        self._load_plugins()
        try:
            return self.name_to_type[name]
        except KeyError:
            raise self._missing(name, 'encoder/decoder') from None

    def _missing(self, name: Any, what: str) -> SerializerNotInstalled:
        known = ', '.join(sorted(map(str, self.name_to_type)))
        return SerializerNotInstalled(f'No {what} installed for {name}: known are {known}')

    def _set_default_serializer(self, name: str) -> None:
        # Celery's security setup calls this.
        self._load_plugins()
        if name not in self._encoders:
            raise self._missing(name, 'encoder')
        (
            self._default_content_type,
            self._default_content_encoding,
            self._default_encode,
        ) = self._encoders[name]

    def dumps(self, data: Any, serializer: str | None = None) -> tuple[str, str, Any]:
        """Encode the body of a message.

        Arguments:
            serializer (str): name; None: bytes and str travel as they are, all else as the default, JSON.
        Returns:
            (str, str, str or bytes): content type, content encoding, encoded body.
        Raises:
            SerializerNotInstalled: there is none of that name.
            EncodeError: it can't encode that object.
        Example:
            >>> dumps({'id': 1}, serializer='json')
            ('application/json', 'utf-8', '{"id": 1}')

        Source: kombu.serialization.SerializerRegistry.dumps.
        """
        if self._plugins:
            self._load_plugins()
        if serializer:
            found = self._encoders.get(serializer)
            if found is None:
                if serializer == 'raw':
                    return raw_encode(data)
                raise self._missing(serializer, 'encoder')
            content_type, content_encoding, encode = found
        elif isinstance(data, bytes):
            return 'application/data', 'binary', data
        elif isinstance(data, str):
            return 'text/plain', 'utf-8', _utf8(data)
        else:
            content_type, content_encoding, encode = self._default()
        try:
            return content_type, content_encoding, encode(data)
        except KombuError:
            raise
        except Exception as exc:
            raise _cannot_encode(serializer or self.type_to_name.get(content_type), data, exc) from exc

    def _default(self) -> tuple[str, str, Callable[[Any], Any]]:
        if not (self._default_content_type and self._default_content_encoding and self._default_encode):
            raise SerializerNotInstalled('no default serializer is set')
        return self._default_content_type, self._default_content_encoding, self._default_encode

    def loads(
        self,
        data: Any,
        content_type: str | bytes | None,
        content_encoding: str | None,
        accept: Collection[str] | None = None,
        force: bool = False,
        _trusted_content: Collection[str] = TRUSTED_CONTENT,
    ) -> Any:
        """Decode the body of a message.

        Arguments:
            data (str or bytes): empty or None comes back as it is.
            content_type (str): of the message; None is application/data. For one that nobody has registered
                the text or the bytes are returned. Case and parameters make no difference.
            content_encoding (str): of the message; None is utf-8. Without a content type too, what is no
                UTF-8 comes back as bytes.
            accept (set[str]): content types to decode; None: all that are not disabled, and no pickle.
            force (bool): with `accept` None, decode whatever it is. For programs that know what they read.
        Raises:
            ContentDisallowed: that content type is not to be decoded.
            DecodeError: the body is not what its content type says.
        Source: kombu.serialization.SerializerRegistry.loads; differs: see pickle in the module's table.
        """
        if self._plugins:
            self._load_plugins()
        if content_type:
            if content_type.__class__ is not str:
                content_type = bytes_to_str(content_type)
            if not isinstance(content_type, str):
                raise DecodeError(f'a content type is a text, not of type {type(content_type).__name__}')
            if content_type not in self.type_to_name and (accept is None or content_type not in accept):
                content_type = self.canonical(content_type)
        elif content_encoding:
            content_type = 'application/data'
        else:
            content_type, content_encoding = 'application/data', _UNSAID
        if accept is None:
            if not force:
                self._check_enabled(content_type)
        elif content_type not in accept and content_type not in _trusted_content:
            raise self._disallowed(content_type, 'untrusted', accept)
        if not data:
            # A text without characters is a text: who carries bytes has none.
            text = content_type.startswith('text/') and content_encoding not in (None, '', 'binary')
            return '' if text else data
        decode = self._decoders.get(content_type)
        try:
            if decode is not None:
                if content_encoding and content_encoding not in _UTF8 and content_type in self._textual:
                    data = _in_charset(data, content_encoding)
                return decode(data)
            return _text(data, content_encoding or 'utf-8')
        except KombuError:
            raise
        except Exception as exc:
            raise DecodeError(f'cannot decode {_size(data)} of {content_type}: {exc}') from exc

    def canonical(self, content_type: str) -> str:
        """The registered content type that a message means: case and parameters make no other one (RFC 9110).

        Arguments:
            content_type (str): e.g. ``Application/JSON; charset=utf-8``.
        Returns:
            str: as it was registered; one that nobody has registered comes back as it is.
        """
        bare = content_type.partition(';')[0].strip().lower()
        if bare in self.type_to_name or bare in TRUSTED_CONTENT:
            return bare
        return next((known for known in self.type_to_name if known and known.lower() == bare), content_type)

    def _check_enabled(self, content_type: str) -> None:
        if content_type in self._disabled_content_types:
            raise self._disallowed(content_type, 'disabled', None)
        if content_type in EXECUTABLE:
            raise self._disallowed(content_type, 'untrusted', None)

    def _disallowed(self, content_type: str, why: str, accept: Collection[str] | None) -> ContentDisallowed:
        name = parenthesize_alias(self.type_to_name.get(content_type, content_type), content_type)
        hint = '' if accept is None else f' (accepted: {", ".join(sorted(map(str, accept))) or "nothing"})'
        if content_type in EXECUTABLE:
            hint += '; reading it runs code of its sender: only a consumer that names it in `accept` does'
        return ContentDisallowed(f'Refusing to deserialize {why} content of type {name}{hint}')

    def _load_plugins(self) -> None:
        # Looking through what is installed takes milliseconds, hence not at import.
        namespaces, self._plugins = self._plugins, ()
        if namespaces:
            load_entrypoints(namespaces, self._plug)

    def _plug(self, name: str, arguments: Any) -> None:
        known = name in self.name_to_type
        self.register(name, *arguments)
        if not known:
            # As in kombu: what a package brings is off until the program or the consumer asks for it.
            self._disabled_content_types.add(self.name_to_type[name])


def _size(data: Any) -> str:
    return f'{len(data)} bytes' if hasattr(data, '__len__') else f'a {type(data).__name__}'


def _cannot_encode(serializer: str | None, data: Any, exc: Exception) -> EncodeError:
    return EncodeError(f'serializer {serializer} cannot encode this {type(data).__name__}: {exc}')


def _utf8(text: str) -> bytes:
    try:
        return text.encode('utf-8')
    except UnicodeEncodeError as exc:
        raise _cannot_encode('raw', text, exc) from exc


def _in_charset(data: Any, content_encoding: str) -> Any:
    # A content encoding is often no charset at all (identity, gzip): then the decoder looks for itself.
    try:
        return _text(data, content_encoding)
    except LookupError:
        return data


def _text(data: Any, content_encoding: str) -> Any:
    if isinstance(data, str) or content_encoding.lower() in SKIP_DECODE:
        return data
    if content_encoding is _UNSAID:
        # As kombu, text if it can be; what another client wrote without a word about it may be anything.
        try:
            return bytes(data).decode('utf-8')
        except UnicodeDecodeError:
            return data
    return bytes(data).decode(text_encoding(content_encoding))


def raw_encode(data: Any) -> tuple[str, str, bytes]:
    """Encode bytes as they are, and text as UTF-8.

    Raises:
        EncodeError: it is neither bytes nor text.
    Source: kombu.serialization.raw_encode; differs: other objects are refused here and not by the transport.
    """
    if isinstance(data, str):
        return 'application/data', 'utf-8', _utf8(data)
    if isinstance(data, bytes):
        return 'application/data', 'binary', data
    if isinstance(data, (bytearray, memoryview)):
        return 'application/data', 'binary', bytes(data)
    raise EncodeError(f'serializer raw cannot encode this {type(data).__name__}: only bytes and str are raw')


def encoded(body: Any, content_type: str, content_encoding: str | None) -> tuple[Any, str]:
    """A body that its publisher has encoded already, as it is to be sent, and its content encoding.

    Raises:
        EncodeError: it is neither bytes nor a text that can be encoded so.
    """
    if isinstance(body, str):
        encoding = content_encoding or 'utf-8'
        try:
            return body.encode(text_encoding(encoding)), encoding
        except (LookupError, UnicodeError) as exc:
            raise EncodeError(
                f'a body of type {content_type} cannot be encoded as {encoding!r}: {exc}'
            ) from exc
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise EncodeError(
            f'with content_type {content_type!r} the body must be encoded already: '
            f'a str or bytes, not {type(body).__name__}'
        )
    return body, content_encoding or 'binary'


def parenthesize_alias(first: str, second: str) -> str:
    """Return `first (second)`, or just the one if they are the same."""
    return f'{first} ({second})' if first != second else first


def pickle_loads(s: bytes, load: Callable[..., Any] = pickle_load) -> Any:
    """Read a pickle. Only ever of data you wrote yourself: it runs the code that is in it.

    Source: kombu.serialization.pickle_loads.
    """
    return load(BytesIO(s))


def unpickle(s: str | bytes) -> Any:
    """Read a pickle, as `pickle_loads`."""
    return pickle_loads(str_to_bytes(s))


def register_json() -> None:
    """Register 'json'."""
    registry.register(
        'json', json.encode, json.decode, content_type='application/json', content_encoding='utf-8'
    )


def register_pickle() -> None:
    """Register 'pickle', which is decoded only where the consumer asks for it by name."""

    def pickle_dumps(obj: Any) -> bytes:
        return pickle.dumps(obj, protocol=pickle_protocol)

    registry.register('pickle', pickle_dumps, unpickle, 'application/x-python-serialize', 'binary')


@cache
def _module(name: str, extra: str) -> Any:
    # Imported when first used: most programs speak JSON only.
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise SerializerNotInstalled(
            f'serializer {extra} needs a package that is not installed: pip install greenmq[{extra}]'
        ) from exc


def register_yaml() -> None:
    """Register 'yaml', read by the safe loader: plain values only."""

    def dump(obj: Any) -> Any:
        text = _module('yaml', 'yaml').safe_dump(obj)
        if '? -' in text or '? [' in text:  # perhaps a list for a key, written where a tuple was one
            load(text)
        return text

    def load(body: Any) -> Any:
        return _module('yaml', 'yaml').safe_load(body if isinstance(body, (str, bytes)) else bytes(body))

    registry.register('yaml', dump, load, 'application/x-yaml', 'utf-8')


def _with_tuples_for_keys(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in pairs}


def _hashable(key: Any) -> Any:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


def register_msgpack() -> None:
    """Register 'msgpack'."""

    # Whatever `pack` takes for a key `unpack` has to give back: numbers, and tuples, which travel as lists.

    def pack(obj: Any) -> Any:
        return _module('msgpack', 'msgpack').packb(obj, use_bin_type=True)

    def unpack(body: Any) -> Any:
        unpackb = _module('msgpack', 'msgpack').unpackb
        body = str_to_bytes(body)
        try:
            return unpackb(body, raw=False, strict_map_key=False)
        except TypeError:
            return unpackb(body, raw=False, strict_map_key=False, object_pairs_hook=_with_tuples_for_keys)

    registry.register('msgpack', pack, unpack, 'application/x-msgpack', 'binary')


#: The serializers of this process.
registry = SerializerRegistry()
dumps = registry.dumps
loads = registry.loads
register = registry.register
unregister = registry.unregister


def enable_insecure_serializers(choices: Any = NOTSET) -> None:
    """Allow serializers that are off by default, in this process.

    Consumers that accept everything decode them from now on; but for pickle, which the consumer has to name
    in its own `accept`.

    Arguments:
        choices (list[str]): names or content types; default: pickle, yaml, msgpack.
    Raises:
        SerializerNotInstalled: there is none of that name; a KeyError as well.
    Source: kombu.serialization.enable_insecure_serializers; differs: an unknown name is an error.
    """
    for choice in INSECURE if choices is NOTSET else _names(choices):
        registry.enable(choice)


def disable_insecure_serializers(allowed: Any = NOTSET) -> None:
    """Refuse all serializers but these, except to consumers that name them in `accept`.

    Arguments:
        allowed (list[str]): names or content types; default: json.
    Raises:
        SerializerNotInstalled: there is none of that name; a KeyError as well.
    Source: kombu.serialization.disable_insecure_serializers.
    """
    names = ['json'] if allowed is NOTSET else _names(allowed)
    registry._load_plugins()
    _disable_all()
    for name in names:
        registry.enable(name)


def _disable_all() -> None:
    registry._disabled_content_types.update(registry.type_to_name)


def _names(choices: Any) -> Iterable[str]:
    return [choices] if isinstance(choices, str) else choices or ()


def prepare_accept_content(
    content_types: Iterable[str] | None, name_to_type: Mapping[str, str] | None = None
) -> set[str] | None:
    """Turn names of serializers into content types; None, which accepts everything, stays None.

    Arguments:
        content_types (list[str]): names and content types.
        name_to_type (Mapping[str, str]): default: the registry's.
    Raises:
        SerializerNotInstalled: there is no serializer of that name.
    Source: kombu.serialization.prepare_accept_content.
    """
    if content_types is None:
        return None
    names = _names(content_types)
    if name_to_type is None:
        # Celery asks for each task: a name that is known costs a look-up.
        known = registry.known_names()
        return {known.get(name) or registry.accepted_type(name) for name in names}
    try:
        return {name if '/' in name else name_to_type[name] for name in names}
    except KeyError as exc:
        raise registry._missing(exc.args[0], 'encoder/decoder') from None


register_json()
register_pickle()
register_yaml()
register_msgpack()
registry._set_default_serializer('json')
_disable_all()
registry.enable('json')
registry._plugins = ('kombu.serializers', 'greenmq.serializers')
