"""A client of the example application: `python -m tests.alias.celery_driver SCENARIO`, in an aliased process.

It says what it did as JSON lines, and reads a line where the broker is to be killed first.
"""
import json
import os
import random
import sys
import threading
import time

from celery import chord, group
from tasks import app, charge, mail, price, ship, total

SENDERS, PAUSE = 4, 0.03
AFTERWARDS = 20  # orders that are sent after a kill at least, however slow the machine


def say(**facts):
    print(json.dumps(facts), flush=True)


def send(number, give_up):
    """Send until it is taken: with the broker away, Celery gives up after its own tries, and we don't."""
    while True:
        try:
            ship.delay(number)
            return
        except Exception as exc:
            # Whatever it is: it must be one of the documented ones, and end in time.
            if not isinstance(exc, (ship.OperationalError, *app.connection().connection_errors)):
                raise
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)


def moment():
    """Seconds between a kill and what is before and after it: any, in a soak."""
    return random.uniform(0, 2.5) if os.environ.get('GREENMQ_SOAK') else 1


def under_kills(rounds):
    """Orders from several threads while the broker is killed; which were sent, all of them."""
    stop, sent, failed = threading.Event(), [], []

    def sender(first):
        number = first
        try:
            while not stop.is_set():
                send(number, time.monotonic() + 60)
                sent.append(number)
                number += SENDERS
                time.sleep(PAUSE)
        except BaseException as exc:
            failed.append(repr(exc))

    threads = [threading.Thread(target=sender, args=(first,)) for first in range(SENDERS)]
    for thread in threads:
        thread.start()
    for number in range(rounds):
        time.sleep(moment())
        say(kill=number)
        sys.stdin.readline()  # it is back
        enough = len(sent) + AFTERWARDS
        time.sleep(moment())
        while len(sent) < enough and not failed:  # each sends, or fails, in a minute
            time.sleep(PAUSE)
    stop.set()
    for thread in threads:
        thread.join()
    say(sent=sorted(sent), failed=failed)
    sys.stdin.readline()  # all have run


def canvas():
    ping = app.control.ping(timeout=5)
    began = time.time()
    eta = ship.apply_async((-1,), countdown=1.5)
    late = ship.apply_async((-2,), countdown=60)
    late.revoke()
    prices = group(price.s(number, 2) for number in range(20)).apply_async()
    say(ping=[list(each.values())[0] for each in ping], group=prices.get(timeout=20),
        chord=chord(price.s(number, 2) for number in range(20))(total.s()).get(timeout=20),
        retry=charge.delay(7, fails=2).get(timeout=20), eta=eta.get(timeout=20), waited=time.time() - began,
        expired=expired())
    began = time.time()
    limited = [mail.delay(-10 - number) for number in range(6)]
    for each in limited:
        each.get(timeout=20)
    say(limited=time.time() - began)


def expired():
    """A task whose time was over when the worker saw it: its state."""
    result = ship.apply_async((-3,), expires=-1) if app.conf.broker_url.startswith('redis') else None
    if result is None:
        return 'REVOKED'
    try:
        result.get(timeout=20)
    except Exception as exc:
        return {'TaskRevokedError': 'REVOKED'}.get(type(exc).__name__, repr(exc))
    return result.state


def later():
    """Orders whose confirms are awaited together, with a kill of the broker while they are on their way."""
    from greenmq.messaging import ConfirmLater
    give_up = time.monotonic() + 60
    with ConfirmLater() as sent:
        for number in range(100):
            send(number, give_up)
        sent.flush()
        for number in range(100, 300):
            send(number, give_up)
        say(kill=0, waiting=len(sent))
        sys.stdin.readline()  # it is back
        for number in range(300, 350):
            send(number, give_up)
    say(sent=350, failures=len(sent.failures), waiting=len(sent))


def smoke():
    """What every pool must do, with results over the broker."""
    say(results=[ship.delay(number).get(timeout=20) for number in range(5)],
        group=group(price.s(number, 2) for number in range(10)).apply_async().get(timeout=20),
        retry=charge.delay(7, fails=1).get(timeout=20),
        ping=[list(each.values())[0] for each in app.control.ping(timeout=5)])


if __name__ == '__main__':
    import kombu
    say(kombu=type(kombu).__name__)
    if sys.argv[1] == 'smoke':
        smoke()
    elif sys.argv[1] == 'later':
        later()
    else:
        under_kills(int(sys.argv[1]))
        canvas()
