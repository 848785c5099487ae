"""How long an import takes in a fresh process: `python -m benchmarks.probes.imports PACKAGE CACHE`.

CACHE is a directory for compiled modules, so that a run after the first measures no compiler, whatever the
environment says about writing them.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys

NAMES = 'Connection, Exchange, Queue, Producer, Consumer'
CODE = '''
import time
start = time.perf_counter(), time.process_time()
{statement}
print(1e3 * (time.perf_counter() - start[0]), 1e3 * (time.process_time() - start[1]))
'''


def measure(statement, cache):
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}
    done = subprocess.run([sys.executable, '-c', CODE.format(statement=statement)], check=True,
                          capture_output=True, text=True, env=environment | {'PYTHONPYCACHEPREFIX': cache})
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def main(package, cache):
    alone = measure(f'import {package}', cache)
    names = measure(f'from {package} import {NAMES}', cache)
    print(json.dumps({'alone_ms': alone[0], 'alone_cpu_ms': alone[1],
                      'names_ms': names[0], 'names_cpu_ms': names[1]}))


if __name__ == '__main__':
    main(*sys.argv[1:])
