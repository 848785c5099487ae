"""One figure of Celery on one package: `python -m benchmarks.probes.celery PACKAGE {worker|send} SETTINGS`.

SETTINGS is JSON. The worker is `celery worker -P gevent` itself, with or without the variable that puts
greenmq in kombu's place; what it runs is in the text below, as a module of a folder of its own.
"""
from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

APPLICATION = '''
import json, os, time
from celery import Celery

settings = json.loads(os.environ['SETTINGS'])
app = Celery('bench', broker=settings['url'])
app.conf.update(broker_heartbeat=settings.get('heartbeat', 120), task_ignore_result=True,
                worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True,
                broker_transport_options=settings.get('options', {}))
began = cpu = None
done = 0

@app.task
def nothing():
    global began, cpu, done
    if began is None:
        began, cpu = time.monotonic(), time.process_time()
        return
    done += 1
    seconds = time.monotonic() - began
    if done > 0 and (done == settings['tasks'] - 1 or seconds > settings['seconds']):
        with open('result.part', 'w') as file:
            json.dump({'rate': done / seconds, 'cpu_us': 1e6 * (time.process_time() - cpu) / done}, file)
        os.rename('result.part', 'result')
        done = -10 ** 9
'''

SENDER = '''
from gevent import monkey
if settings.get('patched', True):
    monkey.patch_all()
import gevent
from bench import app, nothing, settings
count, greenlets = settings['tasks'], settings['greenlets']
def send(n):
    with block():
        for _ in range(n):
            nothing.delay()
if settings.get('later') and os.environ['GREENMQ_AS_KOMBU'] == '1':
    from greenmq.messaging import ConfirmLater as block
else:  # kombu waits for each
    from contextlib import nullcontext as block
send(20)
began, cpu = time.monotonic(), time.process_time()
gevent.joinall([gevent.spawn(send, count // greenlets) for _ in range(greenlets)], raise_error=True)
seconds = time.monotonic() - began
print(json.dumps({'rate': count / seconds, 'cpu_us': 1e6 * (time.process_time() - cpu) / count}))
'''


def main(package: str, what: str, settings: str) -> None:
    switch = '1' if package == 'greenmq' else '0'
    environment = {**os.environ, 'SETTINGS': settings, 'GREENMQ_AS_KOMBU': switch}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, 'bench.py').write_text(APPLICATION)
        environment['PYTHONPATH'] = folder
        purge = 'from bench import app; app.control.purge()'
        if what == 'worker':
            send = "from bench import nothing, settings; [nothing.delay() for _ in range(settings['tasks'])]"
            _python(f'{purge}; {send}', folder, environment)
            result = _work(pathlib.Path(folder), environment)
        else:
            program = 'import json, os, time\nsettings = json.loads(os.environ["SETTINGS"])\n' + SENDER
            result = _python(program, folder, environment)
        _python(purge, folder, environment)
    print(result)


def _python(program: str, folder: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, '-c', program], cwd=folder, env=environment, check=False,
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip()


def _work(folder: pathlib.Path, environment: dict[str, str]) -> str:
    command = [sys.executable, '-m', 'celery', '-A', 'bench', 'worker', '-P', 'gevent', '-c', '20',
               '-l', 'WARNING', '--without-mingle', '--without-gossip']
    with open(folder / 'log', 'wb') as log:
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while not (folder / 'result').exists():
            if worker.poll() is not None or time.monotonic() > end:
                raise SystemExit((folder / 'log').read_text())
            time.sleep(0.05)
        return (folder / 'result').read_text()
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()


if __name__ == '__main__':
    main(*sys.argv[1:])
