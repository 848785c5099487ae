"""Celery's schedulers on Redis: beat's own, redbeat, and django-celery-beat with django-celery-results.

Each beat and one worker are processes of their own; a task that a scheduler sends writes a line.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from application import check, kill, run

TASKS = '''
import os, django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=['django.contrib.contenttypes', 'django.contrib.auth', 'django_celery_beat',
                    'django_celery_results'],
    DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': os.environ['DB']}},
    USE_TZ=True, CELERY_RESULT_EXTENDED=True, DEFAULT_AUTO_FIELD='django.db.models.AutoField')
django.setup()
from celery import Celery
app = Celery('scheduled', broker=os.environ['BROKER'], backend='django-db')
app.conf.update(
    broker_connection_retry_on_startup=True, redbeat_redis_url=os.environ['BROKER'], beat_max_loop_interval=1,
    redbeat_lock_timeout=5,
    beat_schedule={os.environ.get('WHO', 'x'): {'task': 'noted', 'schedule': 0.5,
                                                'args': [os.environ.get('WHO', 'x')]}})

@app.task(name='noted')
def noted(who):
    with open('noted', 'a') as file:
        file.write(who + '\\n')
    return who
'''
SCHEDULERS = {
    'celery': 'celery.beat:PersistentScheduler',
    'redbeat': 'redbeat.RedBeatScheduler',
    'django': 'django_celery_beat.schedulers:DatabaseScheduler',
}
CELERY = str(pathlib.Path(sys.executable).with_name('celery'))


def main(url):
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pathlib.Path('scheduled.py').write_text(TASKS)
        os.environ.update(BROKER=url, DB=f'{folder}/db.sqlite3', PYTHONPATH=folder)
        migrate = 'import scheduled; from django.core.management import call_command; call_command("migrate")'
        subprocess.run([sys.executable, '-c', migrate], check=True, stdout=subprocess.DEVNULL)
        children = [start({}, 'worker', '-P', 'threads', '-c', '2')]
        try:
            for who, scheduler in SCHEDULERS.items():
                children.append(start({'WHO': who}, 'beat', '-S', scheduler, '-s', f'{folder}/beat-{who}'))
            for who in SCHEDULERS:
                check(f'{who}: tasks are sent', more(who), text('noted'))
            kill()
            for who in SCHEDULERS:
                if who == 'redbeat':
                    continue  # it ends with its Redis, on kombu as well
                check(f'{who}: tasks are sent after the kill', more(who), text('noted')[-200:])
            count = ('import scheduled; from django_celery_results.models import TaskResult;'
                     'print(TaskResult.objects.filter(status="SUCCESS").count())')
            told = subprocess.run([sys.executable, '-c', count], check=True, capture_output=True, text=True)
            check('django: results are kept', int(told.stdout) > 5, told.stdout)
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait(60)


def start(environment, *arguments):
    return subprocess.Popen([CELERY, '-A', 'scheduled', *arguments], env={**os.environ, **environment},
                            stdin=subprocess.DEVNULL, stdout=sys.stderr)


def text(name):
    return pathlib.Path(name).read_text() if pathlib.Path(name).exists() else ''


def more(who, count=3, seconds=45):
    """Are tasks of a scheduler done from now on?"""
    had, end = text('noted').count(who), time.monotonic() + seconds
    while time.monotonic() < end:
        if text('noted').count(who) >= had + count:
            return True
        time.sleep(0.2)
    return False


run(main, sys.argv[1])
