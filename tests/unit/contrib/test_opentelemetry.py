"""Spans of publish and process, and the W3C context between them."""
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, get_current_span

from greenmq import Connection, Consumer, Producer, Queue
from greenmq.contrib.opentelemetry import instrument, uninstrument

QUEUE = Queue('traced', routing_key='traced')


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(provider)
    yield exporter.get_finished_spans
    uninstrument()


@pytest.fixture
def connection():
    with Connection('memory://localhost/traced') as connection:
        yield connection


def test_the_callback_continues_the_trace_of_the_publish(spans, connection):
    inside = []

    def on_message(body, message):
        inside.append(get_current_span().get_span_context())
        message.ack()

    headers = {'mine': 1}
    connection.Producer().publish(
        {}, routing_key='traced', declare=[QUEUE], headers=headers, message_id='m-1')
    assert headers == {'mine': 1}
    with connection.Consumer(QUEUE, callbacks=[on_message]):
        connection.drain_events(timeout=5)
    publish, process = spans()
    assert (publish.name, publish.kind) == ('publish traced', SpanKind.PRODUCER)
    assert (process.name, process.kind) == ('process traced', SpanKind.CONSUMER)
    assert process.parent.span_id == publish.context.span_id and inside == [process.context]
    assert process.attributes['messaging.message.id'] == 'm-1'
    assert process.attributes['messaging.operation.type'] == 'process'
    assert publish.attributes['messaging.system'] == 'memory'
    assert not get_current_span().get_span_context().is_valid


def test_an_error_of_the_callback_is_on_its_span(spans, connection):
    def on_message(body, message):
        raise ValueError('a bug')

    connection.Producer().publish({}, routing_key='traced', declare=[QUEUE])
    with connection.Consumer(QUEUE, callbacks=[on_message]):
        with pytest.raises(ValueError):
            connection.drain_events(timeout=5)
    assert not spans()[-1].status.is_ok and spans()[-1].events[0].name == 'exception'


def test_it_can_be_taken_back():
    before = Producer.publish, Consumer.process_message
    instrument()
    instrument()
    assert Producer.publish is not before[0]
    uninstrument()
    assert (Producer.publish, Consumer.process_message) == before
