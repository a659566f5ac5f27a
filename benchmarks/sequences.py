"""How often `lethe.sequences` stops a training that it should not, and one that it should.

Twenty looks at the same items, 0/1 scores; the rule is `change < -0.05`. Items keep a latent state
whose correlation between looks is `agree`; clusters share half of it. False stops: the true change
is −0.05 at every look, the worst that the rule allows. Stopped: it is −0.10 at every look.

    python benchmarks/sequences.py [--runs 200] [--seed 0]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lethe.sequences import mean_sequence

RESULT = Path(__file__).parent / "results" / "sequences.json"
LOOKS, MARGIN = 20, 0.05
CELLS = (
    {"n": 300, "size": 1, "gained": 0.05, "agree": 0.5},
    {"n": 120, "size": 1, "gained": 0.02, "agree": 0.5},
    {"n": 300, "size": 1, "gained": 0.05, "agree": 0.9},
    {"n": 120, "size": 1, "gained": 0.02, "agree": 0.9},
    {"n": 1000, "size": 4, "gained": 0.05, "agree": 0.9},
    {"n": 300, "size": 1, "gained": 0.05, "agree": 0.0},
)


def differences(
    rng: np.random.Generator, cell: dict[str, float], drop: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Differences (LOOKS, n) with a true mean of −drop, and clusters (n,)."""
    n, size, agree = int(cell["n"]), int(cell["size"]), cell["agree"]
    clusters = np.repeat(np.arange(n // size), size)
    share = 0.0 if size == 1 else 0.5

    def latent() -> NDArray[np.float64]:
        shared = rng.standard_normal(n // size)[clusters]
        return np.asarray(np.sqrt(share) * shared + np.sqrt(1 - share) * rng.standard_normal(n))

    same = latent()
    z = np.stack([np.sqrt(agree) * same + np.sqrt(1 - agree) * latent() for _ in range(LOOKS)])
    lost, gained = z < ndtri(cell["gained"] + drop), z > -ndtri(cell["gained"])
    return gained.astype(float) - lost, clusters


def stopped(cell: dict[str, float], drop: float, runs: int, seed: int) -> float:
    """Share of trainings that are stopped."""
    rng = np.random.default_rng(seed)
    count = 0
    for _ in range(runs):
        x, clusters = differences(rng, cell, drop)
        count += any(found.high < -MARGIN for found in mean_sequence(x, clusters))
    return count / runs


def main() -> None:
    """Every cell, false stops and stops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = []
    for cell in CELLS:
        false = stopped(cell, MARGIN, asked.runs, asked.seed)
        found = stopped(cell, 2 * MARGIN, max(asked.runs // 2, 1), asked.seed + 1)
        rows.append({**cell, "runs": asked.runs, "false_stops": false, "stopped": found})
        print(json.dumps(rows[-1]), flush=True)
        RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
