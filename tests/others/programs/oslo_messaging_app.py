"""oslo.messaging in native threads, unpatched: RPC, casts and notifications, before and after a kill."""
import sys
import threading
import time

import oslo_messaging
import oslo_messaging._tracing.client  # registers options that its clients read
from application import check, kill, run
from oslo_config import cfg

CALLERS, CALLS, WORDS = 10, 30, 50


class Remote:
    """What is called."""

    def __init__(self):
        self.noted = []

    def add(self, context, a, b):
        return a + b

    def note(self, context, n):
        self.noted.append(n)


class Heard:
    """What is notified."""

    def __init__(self):
        self.seen = []

    def info(self, context, publisher_id, event_type, payload, metadata):
        self.seen.append(payload['n'])


def calls(client):
    """Answers that were wrong, or did not come, to callers in threads of their own."""
    wrong = []

    def caller(k):
        for i in range(CALLS):
            try:
                answer = client.call({}, 'add', a=k, b=i)
            except oslo_messaging.MessagingException as error:
                answer = error
            if answer != k + i:
                wrong.append((k, i, repr(answer)))

    threads = [threading.Thread(target=caller, args=(k,)) for k in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def all_of(seen, words):
    end = time.monotonic() + 20
    while not words <= set(seen) and time.monotonic() < end:
        time.sleep(0.05)
    return sorted(words - set(seen))


def main(url):
    cfg.CONF([], project='others')
    rpc = oslo_messaging.get_rpc_transport(cfg.CONF, url)
    notes = oslo_messaging.get_notification_transport(cfg.CONF, url)
    remote, heard = Remote(), Heard()
    server = oslo_messaging.get_rpc_server(
        rpc, oslo_messaging.Target(topic='others', server='here'), [remote], executor='threading')
    listener = oslo_messaging.get_notification_listener(
        notes, [oslo_messaging.Target(topic='others-notes')], [heard], executor='threading')
    server.start()
    listener.start()
    client = oslo_messaging.get_rpc_client(rpc, oslo_messaging.Target(topic='others'), timeout=20)
    notifier = oslo_messaging.Notifier(notes, 'others', driver='messaging', topics=['others-notes'])
    for when, first in (('before the kill', 0), ('after the kill', WORDS)):
        if first:
            kill()
            # A call before the server has declared its queue again goes nowhere, with kombu as well.
            end = time.monotonic() + 60
            while time.monotonic() < end:
                try:
                    if client.prepare(timeout=2).call({}, 'add', a=1, b=1) == 2:
                        break
                except oslo_messaging.MessagingException:
                    continue
            time.sleep(3)
        wrong = calls(client)
        check(f'calls {when}', not wrong, f'{len(wrong)} of {CALLERS * CALLS}: {wrong[:1]}')
        words = set(range(first, first + WORDS))
        for n in sorted(words):
            client.cast({}, 'note', n=n)
            notifier.info({}, 'said', {'n': n})
        check(f'casts {when}', not (lost := all_of(remote.noted, words)), f'lost {lost}')
        check(f'notifications {when}', not (lost := all_of(heard.seen, words)), f'lost {lost}')


run(main, sys.argv[1])
