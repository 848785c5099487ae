"""What a worker tells over HTTP: that it lives, whether it consumes, its numbers, and a page for people.

====================  ==============================================================================
``/healthz``          200 as long as the process answers
``/readyz``           200 if each consumer is proved to consume (P25), else 503; as JSON why
``/metrics``          for Prometheus, with the extra ``metrics``; 501 without it
``/``                 the page
====================  ==============================================================================

Proved means: all that we know says so, and the broker has answered on that connection. An answer holds for
`PROOF` seconds, then the broker is asked again and has `PATIENCE` seconds. So a broker that falls silent
makes the worker unready within two seconds, and nobody who asks waits longer than `PATIENCE`.

GET and HEAD only, and nothing here changes anything. It tells queue names and what failed to everybody who
asks, so it listens on loopback unless it is told otherwise, and then answers only to the names of loopback.
Of an error in a callback it shows the class, not the text, which may quote what was in the message; the log
has it. Other errors are shown with the passwords of URLs masked. A connection has 5 seconds for its request
and answer, and of more than 64 connections the oldest is closed.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from greenmq import events, runtime
from greenmq.exceptions import ChannelError, ConnectionError, KombuError
from greenmq.log import get_logger
from greenmq.mixins import ConsumerMixin
from greenmq.utils.text import printable
from greenmq.utils.url import hide_passwords
from greenmq.worker import metrics, page
from greenmq.worker.report import Durations, Report

__all__ = ('Health',)

logger = get_logger('greenmq.worker')

# Seconds between two samples, and how many are kept: rates are those of the last half minute at most.
SAMPLE = 1.0
SAMPLES = 30
# Seconds that a broker's answer holds, and that it may take; the second is less than what Kubernetes waits.
PROOF = 1.0
PATIENCE = 0.9
# Upper bounds, in seconds, of the histogram of confirms.
CONFIRMS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# Errors that the page shows.
ERRORS = 10

_LOOPBACK = re.compile(r'127(\.[0-9]{1,3}){3}')

TEXT, JSON, HTML = 'text/plain; charset=utf-8', 'application/json', 'text/html; charset=utf-8'
Answer = tuple[str, str, bytes]

# The page brings its style along and loads nothing.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)


class Health:
    """The HTTP side of one worker.

    Arguments:
        worker (ConsumerMixin): of which it tells.
        address (tuple[str, int]): where to listen; port 0 takes a free one.
    """

    def __init__(self, worker: ConsumerMixin, address: tuple[str, int]) -> None:
        self.worker = worker
        self.address = address
        self.lag = self.worst_lag = 0.0
        self.started = runtime.monotonic()
        self.confirms = Durations(CONFIRMS)
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)
        self._errors: deque[tuple[float, str]] = deque(maxlen=ERRORS)
        self._proof: tuple[float, int, float | None] = (float('-inf'), 0, None)
        self._proving: Any = None
        self._routes: dict[str, Callable[[], Answer]] = {
            '/healthz': self._healthz, '/readyz': self._readyz, '/metrics': self._metrics, '/': self._page,
        }

    @contextmanager
    def serving(self) -> Iterator[Health]:
        """Context manager: it listens. `address` then has the real port.

        Raises:
            OSError: it can't listen there.
        Switches: yes, at the end.
        """
        try:
            server: Any = runtime.wsgi_server(self.address, self)
            server.start()
        except OSError as exc:
            place = '{}:{}'.format(*self.address)
            reason = os.strerror(exc.errno or 0)
            raise OSError(exc.errno, f'health cannot be served on {place}: {reason}') from exc
        self.address = server.address[:2]
        sampler = runtime.spawn(self._sample, name='greenmq.health')
        hearing = [events.subscribe(name, self._note) for name in ('lost', 'decode_error', 'consumer_lost')]
        hearing.append(events.subscribe('confirmed', lambda event: self.confirms.add(event.facts['seconds'])))
        logger.info('health on http://%s:%d/', *self.address)
        try:
            yield self
        finally:
            for subscription in hearing:
                subscription.cancel()
            sampler.kill()
            server.stop(timeout=0.1)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI. Switches: yes, for at most `PATIENCE`."""
        method, path = environ.get('REQUEST_METHOD', 'GET'), environ.get('PATH_INFO', '/')
        if not self._is_ours(environ.get('HTTP_HOST', '')):
            status, kind, body = '421 Misdirected Request', TEXT, b'this is not served under that name\n'
        elif method not in ('GET', 'HEAD'):
            status, kind, body = '405 Method Not Allowed', TEXT, b'GET only\n'
        elif path in self._routes:
            status, kind, body = self._routes[path]()
        else:
            status, kind, body = '404 Not Found', TEXT, b'/ /healthz /readyz /metrics\n'
        start_response(status, [
            ('Content-Type', kind), ('Content-Length', str(len(body))), ('Cache-Control', 'no-store'),
            ('Content-Security-Policy', POLICY), ('X-Content-Type-Options', 'nosniff'),
            ('Connection', 'close'),  # nobody holds a place here
        ])  # fmt: skip
        return [b'' if method == 'HEAD' else body]

    def _is_ours(self, name: str) -> bool:
        # On loopback only this machine's browsers come: a page of somebody else's whose name was made to lead
        # here (DNS rebinding) could read all this through them. Elsewhere any name may lead here rightly.
        if not (self.address[0].startswith('127.') or self.address[0] in ('localhost', '::1')):
            return True
        host = name.rpartition(':')[0] if name.rpartition(':')[2].isdigit() else name
        return host in ('', 'localhost', '[::1]') or _LOOPBACK.fullmatch(host) is not None

    def report(self) -> Report:
        """All there is to tell, at this moment.

        Switches: yes, for at most `PATIENCE`.
        """
        answer = self._prove()
        status = ConsumerMixin.status(self.worker)
        return Report(
            answer=answer,
            name=type(self.worker).__qualname__,
            status=status,
            seconds=runtime.monotonic() - self.started,
            rate=self._rate(),
            lag=self.lag,
            worst_lag=self.worst_lag,
            confirms=self.confirms,
            errors=self._last_errors(status),
        )

    # --------------------------------------------------------------------------------------- answers

    def _healthz(self) -> Answer:
        return '200 OK', TEXT, b'ok\n'

    def _readyz(self) -> Answer:
        report = self.report()
        facts = {
            'ready': report.ready,
            'state': report.status['state'],
            'broker': report.status['connection'],
            'error': report.status['error'],
            'next_try_in_seconds': report.status['next_try'],
            'broker_answered_in_seconds': report.answer,
            'consumers': [{name: consumer[name] for name in ('queues', 'state', 'consuming')}
                          for consumer in report.status['consumers']],
        }
        status = '200 OK' if report.ready else '503 Service Unavailable'
        return status, JSON, json.dumps(facts).encode() + b'\n'

    def _metrics(self) -> Answer:
        try:
            kind, body = metrics.exposition(self.report())
        except ImportError as exc:
            return '501 Not Implemented', TEXT, f'{exc}: pip install "greenmq[metrics]"\n'.encode()
        return '200 OK', kind, body

    def _page(self) -> Answer:
        return '200 OK', HTML, page.render(self.report()).encode()

    # ----------------------------------------------------------------------------------------- proof

    def _prove(self) -> float | None:
        """Seconds that the broker's last answer took; None if there is none that still holds."""
        if self._proving is None:
            self._proving = runtime.Lock()
        deadline = runtime.Deadline.after(PATIENCE)
        if not self._proving.acquire(deadline):
            return None
        try:
            when, which, answer = self._proof
            connects = ConsumerMixin.status(self.worker)['connects']
            if runtime.monotonic() - when > PROOF or which != connects:
                answer = self._ask(deadline)
                self._proof = runtime.monotonic(), connects, answer
            return answer
        finally:
            self._proving.release()

    def _ask(self, deadline: runtime.Deadline) -> float | None:
        try:
            return ConsumerMixin.ping(self.worker, max(0.0, deadline.remaining() or 0.0))
        except (KombuError, ConnectionError, ChannelError, OSError) as exc:
            logger.debug('the broker gives no proof: %r', exc)
            return None

    # --------------------------------------------------------------------------------------- samples

    def _sample(self) -> None:
        while True:
            before = runtime.monotonic()
            runtime.sleep(SAMPLE)
            now = runtime.monotonic()
            self.lag = max(0.0, now - before - SAMPLE)
            self.worst_lag = max(self.worst_lag, self.lag)
            consumers = ConsumerMixin.status(self.worker)['consumers']
            self._samples.append((now, sum(consumer['handled'] for consumer in consumers)))

    def _rate(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        (start, before), (end, now) = self._samples[0], self._samples[-1]
        return max(0.0, (now - before) / (end - start))

    def _note(self, event: Any) -> None:
        error = event.facts.get('error')
        if event.name == 'decode_error' or error is None:
            text = f'{event.name}: {type(error).__name__}'  # its text may quote the message
        else:
            text = f'{event.name}: {type(error).__name__}: {printable(hide_passwords(str(error)))}'
        self._errors.append((runtime.monotonic(), text))

    def _last_errors(self, status: dict[str, Any]) -> list[tuple[float, str]]:
        now = runtime.monotonic()
        failures = [
            (when, f'{", ".join(consumer["queues"])}: {name} in a callback, see the log')
            for consumer in status['consumers'] for when, name in consumer['failures']
        ]  # fmt: skip
        found = [*self._errors, *failures]
        return [(now - when, text) for when, text in sorted(found, reverse=True)[:ERRORS]]
