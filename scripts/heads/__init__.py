"""Renders talking heads with exact landmarks and labels, for training and measuring the demo bundle's networks."""

import os
from pathlib import Path

# compiled functions outlive a run; the checkout may be read-only; they remember the package's name, which is `heads` or
# `scripts.heads`
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path.home() / ".cache" / f"hdtalk-{__name__}"))
