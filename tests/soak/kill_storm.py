"""The storm of tests/integration/test_kill_storm.py for as long as asked: ``make soak SECONDS=7200``."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.support.engine import engine
from tests.support.storm import Storm

__all__ = ["main"]

SAMPLES_SHOWN = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"{arguments.seconds:.0f} s, seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, engine() as made:
        storm = Storm(made, Path(folder) / "log", random.Random(arguments.seed), kill_seconds=2.0)
        stats = storm.run(arguments.seconds)
        for sample in storm.samples[:: max(1, len(storm.samples) // SAMPLES_SHOWN)]:
            print(sample)
        print(storm.check(stats))
        print(stats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
