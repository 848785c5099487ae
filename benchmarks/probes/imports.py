"""How long an import takes in a fresh process: `python -m benchmarks.probes.imports PACKAGE`."""
from __future__ import annotations

import json
import subprocess
import sys

NAMES = 'Connection, Exchange, Queue, Producer, Consumer'
CODE = '''
import time
start = time.perf_counter(), time.process_time()
{statement}
print(1e3 * (time.perf_counter() - start[0]), 1e3 * (time.process_time() - start[1]))
'''


def measure(statement):
    done = subprocess.run([sys.executable, '-c', CODE.format(statement=statement)], check=True,
                          capture_output=True, text=True)
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def main(package):
    alone = measure(f'import {package}')
    names = measure(f'from {package} import {NAMES}')
    print(json.dumps({'alone_ms': alone[0], 'alone_cpu_ms': alone[1],
                      'names_ms': names[0], 'names_cpu_ms': names[1]}))


if __name__ == '__main__':
    main(sys.argv[1])
