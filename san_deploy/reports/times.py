"""Times as people read them."""

from __future__ import annotations

import math
from datetime import datetime, timezone


def when(start: float, end: float) -> str:
    """`2026-03-01 09:30:00-09:30:12 UTC` of seconds since 1970; empty where they are NaN."""
    if math.isnan(start) or math.isnan(end):
        return ""
    first, last = (datetime.fromtimestamp(value, timezone.utc) for value in (start, end))
    until = f"{last:%H:%M:%S}" if last.date() == first.date() else f"{last:%Y-%m-%d %H:%M:%S}"
    return f"{first:%Y-%m-%d %H:%M:%S}-{until} UTC"
