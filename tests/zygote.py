"""Commands in processes of their own that need no imports: a process that has made them all forks one for each.

Most of a short command's time is `import torch`. What is tested about starting itself starts anew.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

MODULES = ("hgenv.benchmarks.command", "hgenv.benchmarks.run", "hgenv.benchmarks.compare", "hgenv.benchmarks.report")


def call(module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What `python -m <module> <words>` says and returns, in a folder, with the environment variables of now."""
    with tempfile.TemporaryDirectory() as folder:
        asked = {"module": module, "words": words, "cwd": str(cwd), "said": folder, "environment": dict(os.environ)}
        zygote = _zygote()
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        print(json.dumps(asked), file=zygote.stdin, flush=True)
        status = int(zygote.stdout.readline())
        out, err = ((Path(folder) / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess([module, *words], status, out, err)


@cache
def _zygote() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.zygote"]
    root = Path(__file__).parents[1]
    zygote = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    atexit.register(zygote.kill)
    return zygote


def _serve() -> None:
    """Make the commands that come in, one at a time, until there are no more."""
    import importlib

    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(module: str, words: list[str], cwd: str, said: str, environment: dict[str, str]) -> None:
    """Be the command."""
    import importlib

    for number, name in ((0, os.devnull), (1, f"{said}/out"), (2, f"{said}/err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = ["", *environment.get("PYTHONPATH", "").split(":")]
    sys.argv = [module, *words]
    status = 0
    try:
        name = "hgenv.benchmarks.command" if module == "hgenv" else module
        main = importlib.import_module(f"{name}.__main__" if name.endswith("report") else name).main
        status = main() or 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
        if status == 1 and isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
