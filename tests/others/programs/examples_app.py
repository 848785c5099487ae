"""kombu's own examples, as they stand but for the broker's address; its daemons live through a kill."""
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from application import check, kill, run

TOLD = 30  # seconds that a line may take
SETTLED = 5  # seconds after which the daemons have declared what they consume: they don't say so


class Running:
    """A script as a child; what it prints is waited for."""

    def __init__(self, folder, *command):
        self.lines, self.news = [], threading.Condition(threading.RLock())
        self.process = subprocess.Popen([sys.executable, '-u', *command], cwd=folder, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line)
                self.news.notify_all()

    def told(self, text):
        with self.news:
            return ''.join(self.lines).count(text)

    def tells(self, text, times=1):
        with self.news:
            return self.news.wait_for(lambda: self.told(text) >= times, TOLD)

    def ended(self):
        """All that it printed, once it ended; None if it does not."""
        try:
            self.process.wait(TOLD)
        except subprocess.TimeoutExpired:
            return None
        self.reader.join()
        return ''.join(self.lines) if self.process.returncode == 0 else None

    def end(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def text(self):
        return ''.join(self.lines)[-600:]


def copied(source, url, folder):
    for path in sorted(source.rglob('*.py')):
        text = path.read_text()
        for each in ('amqp://guest:guest@localhost:5672//', 'pyamqp://', 'amqp://'):
            text = text.replace(f"'{each}'", repr(url))
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder


def one(folder, name, *scripts, expects):
    """Scripts, one after the other, each to its end; the last one prints what is expected."""
    texts = []
    for script in scripts:
        child = Running(folder, script)
        texts.append(child.ended())
        child.end()
    check(name, None not in texts and expects in texts[-1], f'{texts}')


def daemons(folder, when, children):
    """Those that run on: each answers, before and after a kill."""
    receiver, worker, server = children
    client = Running(folder / 'rpc-tut6', 'rpc_client.py')
    said = client.ended()
    check(f'rpc-tut6 {when}', said and '[.] Got 832040' in said, f'{said}: {client.text()}: {server.text()}')
    client.end()
    for name, script, child, told in (('complete', ['complete_send.py'], receiver, "'hello': 'world'"),
                                      ('simple_task_queue', ['-m', 'simple_task_queue.client'], worker,
                                       'Hello Kombu')):
        times = child.told(told) + 1
        sender = Running(folder, *script)
        said = sender.ended()
        check(f'{name} {when}', said is not None and child.tells(told, times),
              f'{sender.text()}: {child.text()}')
        sender.end()


def main(url, source):
    with tempfile.TemporaryDirectory() as name:
        folder = copied(pathlib.Path(source), url, pathlib.Path(name))
        one(folder, 'hello', 'hello_publisher.py', 'hello_consumer.py', expects='Received: helloworld')
        one(folder, 'simple', 'simple_send.py', 'simple_receive.py', expects="{'hello': 'world'}")
        one(folder, 'memory', 'memory_transport.py', expects='RECEIVED MESSAGE')
        one(folder, 'eventlet', 'simple_eventlet_send.py', expects='')
        one(folder, 'async_consume', 'experimental/async_consume.py', expects="received: 'hello world'")
        children = [Running(folder, 'complete_receive.py'),
                    Running(folder, '-m', 'simple_task_queue.worker'),
                    Running(folder / 'rpc-tut6', 'rpc_server.py')]
        try:
            time.sleep(SETTLED)
            daemons(folder, 'before the kill', children)
            kill()
            # The receiver that is no mixin ends with its connection, and is started again
            said = children[0].ended()
            check('complete ends by its connection error', said is None and children[0].told('Error'),
                  children[0].text())
            children[0].end()
            children[0] = Running(folder, 'complete_receive.py')
            time.sleep(SETTLED)
            daemons(folder, 'after the kill', children)
        finally:
            for each in children:
                each.end()


run(main, *sys.argv[1:])
