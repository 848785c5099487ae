"""Programs on libraries that stand on kombu, run with greenmq in its place, their broker killed between.

Each is a file beside this one, in the environment of the other suites with what it needs besides.
"""
import json
import pathlib
import subprocess

from tests.others.suites import installed, pip, source_of, unpack

HERE = pathlib.Path(__file__).parent / 'programs'

#: Seconds for a whole program.
SECONDS = 300


class Application:
    """One program: what must be installed for it, which server it wants, and how its URL begins.

    `source`, a package, has it be given the path of the examples in that one's source distribution.
    """

    def __init__(self, program, needs, server, url, source=None):
        self.program, self.needs, self.server, self.url = program, needs, server, url
        self.source = source

    def prepare(self):
        pip('install', '--upgrade', *self.needs)
        if self.source is not None:
            unpack(self.source)

    def versions(self):
        return [f'{each} {installed(each)}' for each in self.needs]

    def run(self, python, environment, output):
        """Outcomes of its checks: name → 'passed' or why not."""
        found = {}
        with self.server() as server, open(output, 'ab') as errors:
            # Killed by us when it hangs: a timer does it, so that reading its lines ends.
            command = ['timeout', '-s', 'KILL', str(SECONDS), python, HERE / f'{self.program}_app.py',
                       self.url(server)]
            if self.source is not None:
                command.append(source_of(self.source) / 'examples')
            child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=errors, text=True)
            ended = False
            with child:
                for line in child.stdout:
                    if not line.startswith('{'):
                        continue  # a library says something
                    facts = json.loads(line)
                    if 'check' in facts:
                        found[f'{self.program}::{facts["check"]}'] = facts['outcome']
                        print(f'{self.program}: {facts["check"]}: {facts["outcome"][:150]}', flush=True)
                    elif 'kill' in facts:
                        server.restart()
                        child.stdin.write('\n')
                        child.stdin.flush()
                    ended = ended or 'end' in facts
        if not ended:
            found[f'{self.program}::the program'] = f'did not end in {SECONDS} s'
        return found
