"""A Celery application for a worker in which greenmq stands in kombu's place; nothing here knows of it.

    export GREENMQ_AS_KOMBU=1 BROKER_URL=amqp://guest:guest@localhost// RESULT_BACKEND=redis://localhost/1
    celery --workdir examples/celery_app -A tasks worker -P gevent -c 100
    python examples/celery_app/order.py 20

NOTES, a file, gets a line for each order that was shipped. BROKER_OPTIONS, JSON, has transport options.
"""
import json
import os
import time

from celery import Celery

app = Celery('shop', broker=os.environ.get('BROKER_URL', 'redis://localhost/0'),
             backend=os.environ.get('RESULT_BACKEND', 'redis://localhost/1'))
app.conf.update(
    # An order that was taken and not shipped when its worker died is taken by the next one.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options=json.loads(os.environ.get('BROKER_OPTIONS', '{}')),
    # Celery's own: without it, what was in hand at a loss of the connection runs on and is then run again.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    task_publish_retry_policy={
        'max_retries': 10, 'interval_start': 0.2, 'interval_step': 0.5, 'interval_max': 2},
    result_expires=600,
)


@app.task
def ship(number):
    """Ship an order: a line in NOTES, in one write, so that lines of several processes don't mix."""
    time.sleep(0.005)
    path = os.environ.get('NOTES')
    if path:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, f'{number}\n'.encode())
        finally:
            os.close(file)
    return number


@app.task
def price(amount, each):
    """What some articles cost."""
    return amount * each


@app.task
def total(prices):
    """The end of a chord: the sum of all prices."""
    return sum(prices)


@app.task(bind=True, max_retries=5)
def charge(self, amount, fails=0):
    """Charge a card whose bank is not there the first `fails` times."""
    if self.request.retries < fails:
        raise self.retry(countdown=0.2)
    return f'{amount} after {self.request.retries} retries'


@app.task(rate_limit='5/s')
def mail(number):
    """Send a mail: five a second and worker, not more."""
    ship(number)
