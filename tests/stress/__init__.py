"""Storms, soaks and leak slopes on memory://. `GREENMQ_SOAK=1` makes the rounds ten times as many."""
from __future__ import annotations

import os

#: Multiplies the rounds: `make soak` has time.
FACTOR = 10 if os.environ.get('GREENMQ_SOAK') else 1
