"""``greenmq worker`` as a process: how it starts, how each signal ends it, and with which code."""
import json
import os
import random
import signal

import pytest

from greenmq import Queue
from tests.support.process import runs, wait_until

#: What chance decides: a few times in every run, often in a soak.
SEEDS = range(50 if os.environ.get('GREENMQ_SOAK') else 2)

pytestmark = [pytest.mark.slow, pytest.mark.green_timeout(120), pytest.mark.own_process]


def publish(broker, bodies, queue='jobs'):
    with broker.channel() as channel:
        producer = channel.Producer()
        for body in bodies:
            producer.publish(body, routing_key=queue, declare=[Queue(queue)])


def remaining(broker, queue='jobs'):
    """id → redelivered of what is left; it is acked."""
    found = {}
    with broker.channel() as channel:
        while (raw := channel.basic_get(queue)) is not None:
            message = channel.message_to_python(raw)
            body = message.payload
            assert body['id'] not in found
            found[body['id']] = message.delivery_info['redelivered']
            message.ack()
    return found


class TestRefused:

    @pytest.mark.parametrize('target, said', [
        ('Nobody', "tests.worker.apps has no 'Nobody'; its workers: Crashing, Done, Recorder, SelfFed"),
        ('NOT_A_WORKER', 'is 42, not a subclass of greenmq.mixins.ConsumerMixin'),
    ])
    def test_a_target_that_is_none(self, worker, target, said):
        running = worker(target=target)
        assert running.code() == 2 and said in running.text()

    @pytest.mark.parametrize('arguments, said', [
        (['--broker', 'nonsense://x'], 'nonsense'),
        (['--health', 'here'], 'not of the form HOST:PORT'),
        (['--concurrency', '0'], 'concurrency'),
    ])
    def test_an_option_that_makes_no_sense(self, worker, arguments, said):
        running = worker(*arguments)
        assert running.code() == 2 and said in running.text()

    def test_with_several_processes_all_end(self, worker):
        running = worker('--processes', '3', target='Nobody')
        assert running.code() == 2 and running.text().count("has no 'Nobody'") == 1

    def test_any_process_may_be_the_first_to_say_why(self, worker, tmp_path):
        running = worker('--processes', '2', target='Nobody', FIRST_STAYS=str(tmp_path / 'first'))
        assert running.code() == 2 and running.text().count("has no 'Nobody'") == 1


class TestSignals:

    @pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
    def test_an_idle_one_ends_at_once(self, worker, signum):
        running = worker()
        running.wait('ready')
        running.send(signum)
        assert running.code(seconds=5) == 0 and 'all that was begun is done' in running.text()

    @pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGQUIT])
    def test_one_that_cannot_reach_its_broker_ends_at_once(self, worker, signum):
        running = worker('--broker', 'amqp://127.0.0.1:1', '--drain-timeout', '600')
        running.wait_text('trying again in')
        running.send(signum)
        assert running.code(seconds=5) == 0

    def test_one_that_is_done_ends(self, worker):
        assert worker(target='Done').code() == 0

    def test_what_is_no_exception_ends_it_with_an_error(self, worker, broker, broker_url):
        publish(broker, [{'id': 1, 'exit': True}])
        assert worker('--broker', broker_url).code() == 1
        assert remaining(broker) == {1: True}

    def test_a_second_signal_ends_it_at_once(self, worker, broker, broker_url):
        publish(broker, [{'id': 1, 'seconds': 600}])
        running = worker('--broker', broker_url, '--drain-timeout', '600')
        running.wait('begin')
        running.send(signal.SIGTERM)
        # Of two signals that wait, Python handles the lower number first.
        running.wait_text('SIGTERM: ending')
        running.send(signal.SIGINT)
        assert running.code(seconds=5) == 128 + signal.SIGINT

    def test_a_callback_that_computes_cannot_outlast_the_timeout(self, worker, broker, broker_url):
        publish(broker, [{'id': 1, 'spin': 60}])
        running = worker('--broker', broker_url, '--drain-timeout', '0.2')
        running.wait('begin')
        running.send(signal.SIGTERM)
        assert running.code(seconds=5) == 4

    def test_hup_starts_anew(self, worker):
        running = worker()
        running.wait('ready')
        running.send(signal.SIGHUP)
        assert len({pid for (pid,) in running.wait('ready', 2)}) == 1  # the same process, another program
        assert running.stop() == 0

    def test_json_logs(self, worker):
        running = worker('--log-format', 'json')
        running.wait('ready')
        assert running.stop() == 0
        entries = [json.loads(line) for line in running.text().splitlines()]
        assert {'time', 'level', 'logger', 'message', 'pid'} <= set(entries[0])


@pytest.mark.parametrize('seed', SEEDS)
class TestAHundredInFlight:
    """Callbacks at work, some of which will not end in time, and more messages behind them."""

    def work(self, seed):
        chance = random.Random(seed)
        bodies = [{'id': number, 'seconds': chance.choice([0, 0.02, 0.2, 0.5, 600])} for number in range(500)]
        return bodies, chance.choice(['ready', 'begin', 'end', 'end']), chance.randrange(1, 60)

    def end(self, running, word, count):
        running.wait(word, 1 if word == 'ready' else count)
        running.send(signal.SIGTERM)
        assert running.code(seconds=1 + 1 + 1) in (0, 4)  # the third second is this test's own slowness

    def check(self, running, rest):
        # What was finished was acked, once, and exactly the rest comes again.
        begun, done = [{int(number) for (number,) in running.lines(word)} for word in ('begin', 'end')]
        assert len(running.lines('begin')) == len(begun)
        assert set(rest) == set(range(500)) - done
        assert all(rest[number] for number in begun - done)

    def test_sigterm_at_a_random_moment(self, worker, broker, broker_url, seed):
        bodies, word, count = self.work(seed)
        publish(broker, bodies)
        running = worker('--broker', broker_url, '--concurrency', '100', '--drain-timeout', '1')
        self.end(running, word, count)
        self.check(running, remaining(broker))

    def test_sigterm_at_a_random_moment_in_memory(self, worker, seed):
        bodies, word, count = self.work(seed)
        running = worker('--concurrency', '100', '--drain-timeout', '1', target='SelfFed',
                         JOBS=json.dumps(bodies))
        self.end(running, word, count)
        rest = running.lines('left')
        assert len(rest) == len(dict(rest))
        self.check(running, {int(number): redelivered == 'True' for number, redelivered in rest})

    def test_kill_of_a_child_at_a_random_moment(self, worker, broker, broker_url, seed):
        chance = random.Random(seed)
        publish(broker, [{'id': number, 'seconds': chance.choice([0, 0.02, 0.2])} for number in range(500)])
        running = worker('--broker', broker_url, '--processes', '2', '--concurrency', '50')
        pids = [int(pid) for (pid,) in running.wait('ready', 2)]
        running.wait('end', chance.randrange(1, 200))
        running.send(signal.SIGKILL, chance.choice(pids))
        # All is done all the same, and twice at most what the dead one had in hand.
        wait_until(lambda: len({number for (number,) in running.lines('end')}) == 500, 30, 'all')
        assert running.stop() == 0
        assert len(running.lines('begin')) <= 500 + 2 * 50 + 50
        assert remaining(broker) == {}


class TestSupervision:

    def test_each_place_has_a_process_and_a_killed_one_is_replaced(self, worker, broker, broker_url):
        publish(broker, [{'id': 1, 'seconds': 600}])
        running = worker('--broker', broker_url, '--processes', '2', '--drain-timeout', '0.5')
        pids = {int(pid) for (pid,) in running.wait('ready', 2)}
        assert len(pids) == 2 and running.process.pid not in pids
        running.wait('begin')
        for pid in pids:
            running.send(signal.SIGKILL, pid)
        running.wait('ready', 4)
        running.wait('begin', 2)  # what the dead had in hand
        running.send(signal.SIGTERM)
        assert running.code(seconds=10) == 4
        assert remaining(broker) == {1: True}

    def test_starts_that_fail_are_paced(self, worker):
        running = worker('--processes', '2', target='Crashing')
        running.wait('start', 4)
        assert 'another is started in 1 s' in running.text()
        running.send(signal.SIGTERM)
        running.code()
        assert len(running.lines('start')) <= 6

    def test_all_done_is_done(self, worker):
        running = worker('--processes', '2', target='Done')
        assert running.code() == 0 and len(running.lines('ready')) == 2

    def test_hup_replaces_each_process(self, worker):
        running = worker('--processes', '2')
        before = {pid for (pid,) in running.wait('ready', 2)}
        running.send(signal.SIGHUP)
        after = {pid for (pid,) in running.wait('ready', 4)[2:]}
        assert len(after) == 2 and not before & after
        assert running.stop() == 0

    def test_processes_end_with_their_supervisor(self, worker):
        running = worker('--processes', '2')
        pids = [int(pid) for (pid,) in running.wait('ready', 2)]
        running.send(signal.SIGKILL)
        running.code()
        wait_until(lambda: not any(map(runs, pids)), 10, 'the children to end')
