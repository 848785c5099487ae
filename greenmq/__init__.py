"""Messaging for greenlets, with the names of kombu.

Everything public is reached from here, and nothing is loaded before it is used: ``import greenmq``
takes no driver, no event loop and no transport with it.

The way of a message, module by module::

    Producer.publish            publishing     what was asked, checked before anything is sent
      encode, compress          serialization, compression
      declare, once             entity, common
      Channel.basic_publish     transport.*    one module a broker, on transport.base
        ⋮ the broker            transport.memory is one inside the process
      a delivery arrives        transport.*    its channel numbers it and counts it as unsettled
      Connection.drain_events   connection     takes one event, in the greenlet that asked
      Consumer.receive          consuming      hands (body, message) to the callbacks
        message.payload         message        decoded when looked at, within what `accept` allows
        message.ack             message        at most once

Around it:

* ``connection`` is a Connection, made of what is in ``connecting``: its address, the attempts at it,
  retrying, and what other native threads publish through. ``resource`` and ``pools`` share connections and
  producers between greenlets; ``pooling`` has their parts: leases, the reaper, statistics, background work.
* ``messaging`` names Producer and Consumer, whose code is in ``publishing`` (with batches and the backlog
  of what was sent without waiting) and ``consuming`` (with the greenlets and the loop of ``mixins``, the
  daemons). ``simple``, ``common``, ``compat`` and ``pidbox`` (with its ``node``) are the conveniences.
* ``entity`` (with ``exchange``) is what is declared, ``abstract`` what entities have in common, ``types``
  the types of what is passed in and out.
* ``core`` keeps the books (deliveries, confirms, topology, routes, retries) and never waits;
  ``runtime`` does all the waiting and alone knows the event loop; ``events`` tells who asked what happened.
* ``exceptions`` is the whole tree of errors; ``matcher``, ``clocks``, ``log``, ``utils`` and
  ``asynchronous`` are kombu's modules of those names. ``cli`` is the ``greenmq`` command, ``worker`` its
  ``greenmq worker``, ``diagnosis`` its ``greenmq doctor``; ``lag`` warns of a hub that is held up,
  ``contrib`` connects to other libraries, ``alias`` stands in kombu's place.

What a docstring does not say: where there is no line ``Switches:``, a call lets no other greenlet run; where
there is no line ``Source:``, a name is greenmq's own and not kombu's or a specification's.

Which of these may import which is stated and held by ``tests/house/test_layers.py``; what is promised, by
number (P1 …), by ``docs/guarantees.rst``.
"""

from collections import namedtuple as _namedtuple

# What type checkers and editors see of this package stands in __init__.pyi; nothing is imported for it here.
__version__ = '0.2.0'


class version_info_t(_namedtuple('version_info_t', 'major minor micro releaselevel serial')):
    """A version taken apart, to compare with: three numbers and two words.

    Source: kombu version_info_t.
    """

    __slots__ = ()


VERSION = version_info = version_info_t(0, 2, 0, '', '')

__all__ = (
    'Connection', 'BrokerConnection', 'Exchange', 'Queue', 'binding', 'Message', 'Consumer', 'Producer',
    'connections', 'producers', 'parse_url', 'eventloop', 'uuid',
    'enable_insecure_serializers', 'disable_insecure_serializers', 'doctor',
)

# Where each public name is made; loaded by the first look at it.
_ORIGINS = {
    'BrokerConnection': 'connection',
    'Connection': 'connection',
    'Consumer': 'messaging',
    'Exchange': 'entity',
    'Message': 'message',
    'Producer': 'messaging',
    'Queue': 'entity',
    'binding': 'entity',
    'connections': 'pools',
    'disable_insecure_serializers': 'serialization',
    'doctor': 'diagnosis',
    'enable_insecure_serializers': 'serialization',
    'eventloop': 'common',
    'parse_url': 'utils.url',
    'producers': 'pools',
    'uuid': 'utils.uuid',
}


def __getattr__(name: str) -> object:
    origin = _ORIGINS.get(name)
    if origin is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f'{__name__}.{origin}'), name)
    return value


def __dir__() -> list[str]:
    own = {name for name in globals() if name.startswith('__')}
    return sorted({*own, *__all__, 'VERSION', 'version_info', 'version_info_t'})
