"""kombu in a process beside, told what to do line by line: see `tests.support.kombu_peer`."""
from __future__ import annotations

import json
import subprocess
import sys

from tests.support.process import end, popen, read_line


class Kombu:
    """Speaks with a process that runs kombu: a method is one of the peer's operations.

    Arguments:
        url (str): the broker.
        options: transport options of kombu.
    """

    def __init__(self, url, **options):
        self.process = popen(
            [sys.executable, '-W', 'ignore', '-m', 'tests.support.kombu_peer', url, json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def __getattr__(self, name):
        def call(*arguments):
            self.process.stdin.write(json.dumps([name, *arguments]) + '\n')
            self.process.stdin.flush()
            answer = read_line(self.process.stdout)
            assert answer, f'kombu ended in {name}'
            return json.loads(answer)

        return call

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        end(self.process)
        self.process.stdin.close()
        self.process.stdout.close()
