"""Progress of a benchmark with the seconds since its start, so that a killed run shows where it was.

Import it before torch: the clock starts at the import.
"""

import time

START = time.perf_counter()


def phase(text: str) -> None:
    """Print what begins or ended now, with the seconds since the start."""
    print(f"[{time.perf_counter() - START:6.1f} s] {text}", flush=True)
