"""What every test shares: one thread, since the models are small and a busy machine stalls thread pools."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
