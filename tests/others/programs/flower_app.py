"""Flower beside a worker: its pages and its API, before and after a kill of the broker."""
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from application import check, kill, run

TASKS = '''
import os
from celery import Celery
app = Celery('shown', broker=os.environ['BROKER'], backend='cache+memory://')
app.conf.update(broker_connection_retry_on_startup=True, worker_send_task_events=True,
                task_send_sent_event=True)

@app.task(name='add')
def add(a, b):
    return a + b
'''
CELERY = str(pathlib.Path(sys.executable).with_name('celery'))


def main(url):
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        os.chdir(folder)
        pathlib.Path('shown.py').write_text(TASKS)
        os.environ.update(BROKER=url, PYTHONPATH=folder, FLOWER_UNAUTHENTICATED_API='true')
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
        free.close()
        children = [start('worker', '-P', 'threads', '-c', '2', '-E'),
                    start('flower', '--address=127.0.0.1', f'--port={port}')]
        try:
            for when in ('before the kill', 'after the kill'):
                if when == 'after the kill':
                    kill()
                shows(f'http://127.0.0.1:{port}', when)
        finally:
            for child in children:
                child.terminate()
            for child in children:
                try:
                    child.wait(30)
                except subprocess.TimeoutExpired:
                    child.kill()


def start(*arguments):
    return subprocess.Popen([CELERY, '-A', 'shown', *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr)


def shows(base, when):
    check(f'workers {when}', until(lambda: get(f'{base}/api/workers?refresh=1')), 'none is shown')
    sent = until(lambda: post(f'{base}/api/task/send-task/add', {'args': [1, 2]}))
    check(f'a task is sent {when}', sent, sent)
    check(f'and shown as done {when}', sent and until(
        lambda: get(f'{base}/api/task/info/{sent["task-id"]}').get('state') == 'SUCCESS'), 'it is not')
    check(f'the tasks page {when}', until(lambda: 'Flower' in read(f'{base}/tasks')), 'it is not there')


def until(ask, seconds=60):
    """What it gives, as soon as that is true and no error."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = ask()
        except (urllib.error.URLError, OSError, ValueError):
            found = None
        if found:
            return found
        time.sleep(0.5)
    return None


def read(url, data=None):
    with urllib.request.urlopen(url, data, timeout=20) as answer:
        return answer.read().decode()


def get(url):
    return json.loads(read(url))


def post(url, value):
    return json.loads(read(url, json.dumps(value).encode()))


run(main, sys.argv[1])
