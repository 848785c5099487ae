"""A worker's numbers in the text format of Prometheus, made by prometheus-client (extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from greenmq import events
from greenmq.consuming.status import BUCKETS
from greenmq.worker.report import Report, pool_figures

__all__ = ('exposition',)


def exposition(report: Report) -> tuple[str, bytes]:
    """Content type and body of ``/metrics``.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        generate_latest,
    )

    registry = CollectorRegistry()
    registry.register(_Collector(report))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Collector:
    # Made for one look: what is counted is counted by the worker, and so costs nothing where nobody asks.
    def __init__(self, report: Report) -> None:
        self.report = report

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        yield from self._consumers()
        report = self.report
        yield GaugeMetricFamily('greenmq_ready', 'Is every consumer proved to consume?', int(report.ready))
        if report.answer is not None:
            yield GaugeMetricFamily(
                'greenmq_broker_answer_seconds', 'What the broker took to answer.', report.answer)
        reconnects = max(0, report.status['connects'] - 1)
        yield CounterMetricFamily('greenmq_reconnects', 'Connections opened after the first.', reconnects)
        yield GaugeMetricFamily('greenmq_hub_lag_seconds', 'How late the hub was lately.', report.lag)
        confirms = HistogramMetricFamily('greenmq_confirm_seconds', 'From a publish to the confirm of it.')
        confirms.add_metric([], _histogram(report.confirms.buckets, report.confirms.counts),
                            report.confirms.seconds)
        yield confirms
        happened = CounterMetricFamily('greenmq_events', 'What happened, by name.', labels=['name'])
        for name, count in events.counters().items():
            happened.add_metric([name], count)
        yield happened
        yield from _pools()

    def _consumers(self) -> Iterator[Any]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        messages = CounterMetricFamily(
            'greenmq_messages', 'Messages by what their callback did.', labels=['queue', 'outcome'])
        failures = CounterMetricFamily(
            'greenmq_callback_failures', 'Callbacks that raised.', labels=['queue'])
        durations = HistogramMetricFamily(
            'greenmq_callback_seconds', 'Duration of callbacks.', labels=['queue'])
        in_flight = GaugeMetricFamily('greenmq_in_flight', 'Callbacks that run.', labels=['queue'])
        prefetch = GaugeMetricFamily('greenmq_prefetch', 'Messages the broker may send ahead; 0: no limit.',
                                     labels=['queue'])
        for number, consumer in enumerate(self.report.status['consumers']):
            # A label may name a series once only: several consumers of one queue are told apart by number.
            queue = f'{",".join(consumer["queues"])}#{number}'
            for outcome, count in consumer['outcomes'].items():
                messages.add_metric([queue, outcome], count)
            failures.add_metric([queue], consumer['failed'])
            durations.add_metric([queue], _histogram(BUCKETS, consumer['durations']), consumer['seconds'])
            in_flight.add_metric([queue], consumer['busy'])
            prefetch.add_metric([queue], consumer['prefetch'])
        yield from (messages, failures, durations, in_flight, prefetch)


def _histogram(buckets: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    # Prometheus wants what is at most as long, in each bucket.
    return list(zip([*map(str, buckets), '+Inf'], accumulate(counts), strict=True))


def _pools() -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    used = GaugeMetricFamily('greenmq_pool_in_use', 'Resources handed out.', labels=['kind', 'broker'])
    limit = GaugeMetricFamily('greenmq_pool_limit', 'Resources at most.', labels=['kind', 'broker'])
    for kind, broker, in_use, most in pool_figures():
        used.add_metric([kind, broker], in_use)
        if most is not None:
            limit.add_metric([kind, broker], most)
    yield from (used, limit)
