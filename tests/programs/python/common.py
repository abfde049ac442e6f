"""What the tests of all clients share."""

import os
import time
import uuid

ADDRESS = os.environ["LEVEE_KAFKA"]
LIMIT = 60.0
"""Seconds that anything may take; much longer than it does."""


def unique(name):
    return f"{name}-{uuid.uuid4().hex[:8]}"


def eventually(what, check):
    """Asks until the answer is true, and gives it."""
    end = time.monotonic() + LIMIT
    while not (answer := check()):
        assert time.monotonic() < end, f"within {LIMIT} s: {what}"
        time.sleep(0.05)
    return answer
