"""``python -m greenmq.alias COMMAND …`` is ``greenmq run COMMAND …``."""

import sys

from greenmq.cli import main

if __name__ == '__main__':
    sys.argv.insert(1, 'run')
    main()
