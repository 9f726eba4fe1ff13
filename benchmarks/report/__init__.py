"""Tables and figures from what runs left behind, without running anything.

    hgenv report [runs/<study>] [more folders] [--out FOLDER] [--results FOLDER]
    hgenv report benchmarks/results/<study>

Folders hold raw runs, or studies (`hgenv.benchmarks.studies`); without one, it is the only study in `runs`. Writes
`report.md`, `report.html` (self-contained) and `figures/` into the first folder, or into `--out`. `--results` writes
what is worth committing to `FOLDER/<study>`: `runs.csv`, `rows.parquet`, `report.md` and the figures. Nothing of it
shows the data.

What a task's figures are called and how its samples look is the task's own business: nothing here knows any.
"""

from .pages import FIGURES, Collection, collect, keep, write
from .tables import Table

__all__ = ["FIGURES", "Collection", "Table", "collect", "keep", "write"]
