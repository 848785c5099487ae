"""``python -m greenmq.cli`` is ``greenmq``."""

from greenmq.cli import main

if __name__ == '__main__':
    main()
