"""The daemon with one defect in it, to see that whoever looks for defects finds it.

Run as ``python -m tests.fakes.planted DEFECT ARGUMENTS...``: the arguments are orchd's own.
"""

from __future__ import annotations

DEFECTS = {"none": None}
