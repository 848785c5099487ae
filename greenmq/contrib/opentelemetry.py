"""Traces through a broker, for OpenTelemetry (extra ``otel``): `instrument()` once, when the program starts.

A publish is a span of kind PRODUCER and puts its W3C context into the headers of the message. The
callbacks of that message run in a span of kind CONSUMER that continues the trace, whoever consumes it. Names
and attributes are those of the semantic conventions for messaging.

The hooks of `greenmq.events` come after the fact and in a task of their own, so they cannot hold a context:
what is called is wrapped instead, and nothing is wrapped until `instrument` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Signature, signature
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from greenmq import Consumer, Producer, __version__

__all__ = ('instrument', 'uninstrument')

#: What the conventions call a broker, by our driver type.
SYSTEMS = {'amqp': 'rabbitmq', 'SQS': 'aws_sqs'}

_originals: dict[tuple[type, str], Any] = {}


def instrument(tracer_provider: Any = None) -> None:
    """Trace every publish and every callback of this process from now on. A second call changes nothing.

    Arguments:
        tracer_provider (TracerProvider): None takes the global one.
    """
    if _originals:
        return
    tracer = trace.get_tracer('greenmq', __version__, tracer_provider)
    for name in ('publish', 'publish_nowait'):
        original = getattr(Producer, name)
        _replace(Producer, name, _traced_publish(tracer, original, signature(original)))
    _replace(Consumer, 'process_message', _traced_process(tracer, Consumer.process_message))


def uninstrument() -> None:
    """Trace nothing any more."""
    while _originals:
        (owner, name), original = _originals.popitem()
        setattr(owner, name, original)


def _replace(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    _originals[owner, name] = getattr(owner, name)
    wrapper.__name__, wrapper.__doc__ = name, _originals[owner, name].__doc__
    setattr(owner, name, wrapper)


def _traced_publish(tracer: Any, original: Callable[..., Any], shape: Signature) -> Callable[..., Any]:
    def publish(producer: Any, *args: Any, **kwargs: Any) -> Any:
        given = shape.bind(producer, *args, **kwargs)
        arguments = given.arguments
        exchange = arguments.get('exchange') or producer.exchange
        exchange = getattr(exchange, 'name', exchange) or ''
        key = arguments.get('routing_key') or producer.routing_key or ''
        more = arguments.get('kwargs') or {}
        attributes = _attributes(
            getattr(producer, 'connection', None), 'publish', 'send', exchange or key, key,
            more.get('message_id'), more.get('correlation_id'),
        )  # fmt: skip
        with tracer.start_as_current_span(f'publish {exchange or key}', kind=SpanKind.PRODUCER,
                                          attributes=attributes):
            headers = dict(arguments.get('headers') or {})  # never the caller's own
            propagate.inject(headers)
            arguments['headers'] = headers
            return original(*given.args, **given.kwargs)

    return publish


def _traced_process(tracer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    def _process(consumer: Any, message: Any) -> Any:
        info, properties = message.delivery_info, message.properties
        key = info.get('routing_key') or ''
        where = getattr(message, 'queue', None) or info.get('exchange') or key
        attributes = _attributes(
            consumer.connection, 'process', 'process', where, key,
            properties.get('message_id'), properties.get('correlation_id'),
        )  # fmt: skip
        parent = propagate.extract({str(name): value for name, value in (message.headers or {}).items()
                                    if isinstance(value, str)})
        with tracer.start_as_current_span(f'process {where}', context=parent, kind=SpanKind.CONSUMER,
                                          attributes=attributes) as span:
            result = original(consumer, message)
            if message.state in ('REJECTED', 'REQUEUED'):
                span.set_status(Status(StatusCode.ERROR, message.state.lower()))
            return result

    return _process


def _attributes(
    connection: Any, name: str, kind: str, where: str, key: str, message_id: Any, correlation_id: Any
) -> dict[str, Any]:
    driver = getattr(getattr(connection, 'transport', None), 'driver_type', 'unknown')
    system = SYSTEMS.get(driver, driver)
    found = {
        'messaging.system': system,
        'messaging.operation.name': name,
        'messaging.operation.type': kind,
        'messaging.destination.name': where,
        'messaging.message.id': message_id,
        'messaging.message.conversation_id': correlation_id,
    }
    if system == 'rabbitmq':
        found['messaging.rabbitmq.destination.routing_key'] = key
    return {attribute: value for attribute, value in found.items() if value}
