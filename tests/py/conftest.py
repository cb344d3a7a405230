"""Lets the tests import `scripts/nettlp_gdb/core`, which needs no GDB, and each other's `synthetic`."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent.parent / "scripts"), str(_HERE)]
