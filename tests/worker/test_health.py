"""What a worker tells over HTTP, and the page as a browser shows it."""
import json
import re
import subprocess
import tempfile
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from greenmq import Connection, Queue, runtime
from greenmq.mixins import ConsumerMixin
from greenmq.worker import page
from greenmq.worker.health import Health
from tests.support import green
from tests.support.process import need, popen, wait_until
from tests.support.proxy import Proxy

URL = 'memory://localhost/test_health'


class Worker(ConsumerMixin):

    def __init__(self, connection):
        self.connection = connection
        self.ready = runtime.Event()

    def get_consumers(self, Consumer, channel):
        self.consumers = [Consumer([Queue('jobs')], callbacks=[self.on_job], prefetch_count=5),
                          Consumer([Queue('<b>mail</b>')], callbacks=[self.on_job])]
        return self.consumers

    def on_consume_ready(self, connection, channel, consumers, **kwargs):
        self.ready.set()

    def on_job(self, body, message):
        if body == 'bad':
            raise ValueError('<script>alert(1)</script>')
        message.ack()


@pytest.fixture
def worker():
    worker = Worker(Connection(URL))
    task = green.spawn(worker.run)
    worker.ready.wait()
    yield worker
    worker.stop(0)
    task.join()


@pytest.fixture
def base(worker):
    with Health(worker, ('127.0.0.1', 0)).serving() as health:
        yield f'http://127.0.0.1:{health.address[1]}'


@pytest.fixture
def publish(settle):
    def publish(*bodies):
        with Connection(URL) as connection:
            for body in bodies:
                connection.Producer().publish(body, routing_key='jobs')
        settle()
    return publish


def test_the_process_lives(base, get):
    assert get(f'{base}/healthz')[:2] == (200, 'ok\n')


def test_ready_while_each_consumer_consumes(base, get, worker):
    status, body, _ = get(f'{base}/readyz')
    assert status == 200 and json.loads(body)['ready']
    worker.consumers[1].cancel()
    status, body, _ = get(f'{base}/readyz')
    assert status == 503
    assert [lane['consuming'] for lane in json.loads(body)['consumers']] == [True, False]


def test_not_ready_before_it_runs(get):
    with Health(Worker(Connection(URL)), ('127.0.0.1', 0)).serving() as health:
        assert get(f'http://127.0.0.1:{health.address[1]}/readyz')[0] == 503


@pytest.mark.slow
@pytest.mark.parametrize('broker', ['amqp_url', 'redis_url'])
def test_a_broker_that_falls_silent_makes_it_unready(broker, request, get):
    # Given a worker that consumes, and a network that then loses all packets without a word
    parts = urlsplit(request.getfixturevalue(broker))
    with Proxy(parts.port) as proxy:
        place = parts.netloc.replace(f':{parts.port}', f':{proxy.port}')
        worker = Worker(Connection(parts._replace(netloc=place).geturl()))
        task = green.spawn(worker.run)
        worker.ready.wait()
        with Health(worker, ('127.0.0.1', 0)).serving() as health:
            url = f'http://127.0.0.1:{health.address[1]}/readyz'
            status, body, _ = get(url)
            assert status == 200 and json.loads(body)['broker_answered_in_seconds'] > 0
            proxy.blackhole('both')
            # Then it is unready as soon as what was proved before holds no more
            wait_until(lambda: get(url)[0] == 503, 10, 'the worker to be unready')
            status, body, _ = get(url)
            facts = json.loads(body)
            assert status == 503 and facts['broker_answered_in_seconds'] is None
            assert all(lane['consuming'] for lane in facts['consumers']), 'all that is known says so'
            assert 'the broker does not answer' in get(url.replace('readyz', ''))[1]
            proxy.heal()
            wait_until(lambda: get(url)[0] == 200, 10, 'the worker to be ready again')
        assert worker.status()['connects'] == 1
        worker.stop(0)
        task.join()


def test_metrics(base, get, publish):
    publish(1, 2, 'bad')
    status, body, headers = get(f'{base}/metrics')
    assert status == 200
    found = {(sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
             for family in text_string_to_metric_families(body) for sample in family.samples}
    assert found['greenmq_messages_total', 'acked', 'jobs#0'] == 2
    assert found['greenmq_messages_total', 'requeued', 'jobs#0'] == 1
    assert found['greenmq_messages_total', 'rejected', 'jobs#0'] == 1
    assert found['greenmq_callback_failures_total', 'jobs#0'] == 2
    assert found['greenmq_callback_seconds_count', 'jobs#0'] == 4
    assert found['greenmq_prefetch', 'jobs#0'] == 5
    assert found['greenmq_ready',] == 1 and found['greenmq_reconnects_total',] == 0


@pytest.mark.slow
def test_metrics_of_confirms(base, get, amqp_url):
    with Connection(amqp_url) as connection:
        for number in range(3):
            connection.Producer().publish(number, routing_key='jobs', declare=[Queue('jobs')])
    wait_until(lambda: 'greenmq_confirm_seconds_count 3.0' in get(f'{base}/metrics')[1], 10, 'three confirms')
    found = {(sample.name, sample.labels.get('le')): sample.value
             for family in text_string_to_metric_families(get(f'{base}/metrics')[1])
             for sample in family.samples}
    assert found['greenmq_confirm_seconds_bucket', '+Inf'] == 3
    assert 0 < found['greenmq_confirm_seconds_sum', None] < 30


def test_only_reading(base, get):
    for method in ('POST', 'PUT', 'DELETE'):
        assert get(f'{base}/', method)[0] == 405
    assert get(f'{base}/metrics', 'HEAD')[:2] == (200, '')
    assert get(f'{base}/nothing')[0] == 404


def test_the_page_loads_nothing_and_takes_names_for_text(base, get, publish):
    publish('bad')
    status, body, headers = get(f'{base}/')
    assert status == 200 and headers['Content-Type'].startswith('text/html')
    assert not re.search(r'(src|href)=|url\(|<script', body)
    assert '&lt;b&gt;mail' in body
    # what a callback raised may quote its message: only the kind is shown
    assert 'ValueError in a callback' in body and 'alert(1)' not in body
    assert "default-src 'none'" in headers['Content-Security-Policy']


def test_the_page_shows_first_what_is_amiss_and_not_all_of_a_thousand():
    class Fleet(Worker):
        def get_consumers(self, Consumer, channel):
            self.consumers = [Consumer([Queue(f'q{number}')], callbacks=[self.on_job])
                              for number in range(1000)]
            return self.consumers

    worker = Fleet(Connection(URL))
    task = green.spawn(worker.run)
    worker.ready.wait()
    worker.consumers[700].cancel()
    body = page.render(Health(worker, ('127.0.0.1', 0)).report())
    rows = re.findall(r'<tr><td>(.*?)</td><td><span class="(.*?)">(.*?)</span>', body)
    assert rows[0] == ('q700', 'bad', 'not consuming') and rows[1] == ('q0', 'good', 'consuming')
    assert len(rows) == 100 and 'and 900 more, in /metrics' in body
    worker.stop(0)
    task.join()


@pytest.mark.parametrize('seconds, text', [
    (0, '0 s'), (59.9, '59 s'), (61, '1 min 1 s'), (3600, '1 h 0 min'), (90_000, '1 d 1 h')])
def test_durations_on_the_page(seconds, text):
    assert page.duration(seconds) == text


@pytest.mark.slow
@pytest.mark.green_timeout(120)
def test_the_page_in_a_browser(base, publish, tmp_path):
    [chromium] = need('chromium')
    publish(1, 2, 3)

    def browse(*arguments):
        with tempfile.TemporaryFile() as out:
            options = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
                       '--hide-scrollbars', f'--user-data-dir={tmp_path}/profile', *arguments]
            child = popen([chromium, *options, f'{base}/'], stdout=out, stderr=subprocess.DEVNULL,
                          stdin=subprocess.DEVNULL)
            wait_until(lambda: child.poll() is not None, 60, 'the browser')
            out.seek(0)
            return out.read().decode()

    shown = browse('--dump-dom')
    assert '<span id="state" class="state good">consuming</span>' in shown
    row = re.search(r'<tr><td>jobs</td>(.*?)</tr>', shown)[1]
    assert re.findall(r'<td>([^<]*)</td>', row)[:8] == ['0', '1', '5', '3', '3', '0', '0', '0']
    for name, scheme in (('light', '1'), ('dark', '0')):
        picture = tmp_path / f'{name}.png'
        browse(f'--screenshot={picture}', '--window-size=1000,700',
               f'--blink-settings=preferredColorScheme={scheme}')
        assert picture.read_bytes().startswith(b'\x89PNG')
    assert (tmp_path / 'light.png').read_bytes() != (tmp_path / 'dark.png').read_bytes()
