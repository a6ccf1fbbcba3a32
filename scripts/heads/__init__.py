"""Renders talking heads with exact landmarks and labels, for training and measuring the demo bundle's networks."""

import os
from pathlib import Path

# compiled functions outlive a run; the checkout may be read-only
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path.home() / ".cache" / "hdtalk-heads"))
