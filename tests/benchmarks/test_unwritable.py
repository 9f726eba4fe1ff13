"""What a record may hold and no report can show: it costs that run, not the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hgenv.benchmarks.report import collect, write

from .raw import make_run


def done(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "DONE.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def config(before: str, after: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.yaml"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return edit


def data_label(folder: Path) -> None:
    path = folder / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if "data" in row:
            row["data"]["validation"] = "\ud800"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (done(message="half a character: \ud800"), "no Unicode"),
        (done(incidents={"\ud800": 1}), "no Unicode"),
        (done(platforms={"a": [1, 2], "b": 3}), "a platform is no object"),
        (done(platforms={"a": None, "b": "xyz"}), "a platform is no object"),
        (data_label, "no Unicode"),
        (config('"amount": 10.0', '"amount": 1' + "0" * 400), "too large"),
    ],
)
def test_it_is_left_out_by_name(tmp_path: Path, edit: Callable[[Path], None], said: str) -> None:
    good = make_run(tmp_path, "good", 0, [40.0, 20.0, 10.0])
    odd = make_run(tmp_path, "odd", 0, [40.0, 20.0, 10.0])
    edit(odd)
    found = collect([tmp_path])
    assert [run.source for run in found.runs] == [good]
    assert said in found.excluded[odd]
    write(found, tmp_path / "report")
    assert "odd" in (tmp_path / "report/report.md").read_text()
