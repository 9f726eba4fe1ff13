from pathlib import Path

from hgenv.benchmarks.config import compose

REPOSITORY = Path(__file__).parents[2]


def quadratic(root: Path, *overrides: str, updates: int = 12):
    return compose(
        [f"root={root}", "env=quadratic", "optimizer=fixed", f"budget={{amount: {updates}, unit: updates}}", *overrides]
    )
