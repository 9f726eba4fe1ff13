"""Open a study's TensorBoard in headless Chromium and save what is seen: the curves against computation time.

    python -m benchmarks.screenshot runs/<study> curves.png

Needs the program `chromium` (Debian: `apt-get install chromium`), or one that the environment variable CHROMIUM names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_SECONDS = 60


class ScreenshotError(RuntimeError):
    """What is needed for a picture is not there. The message says what, and the cure."""


def screenshot(folder: Path, picture: Path, *, runs: str, tags: str, size: tuple[int, int], seconds: float) -> None:
    """Save a PNG of the scalars dashboard.

    Args:
        folder: Logs.
        picture: Where the PNG goes.
        runs: Regular expression of the runs to show; `total$` shows the curves against total computation time.
        tags: Regular expression of the tags to show.
        size: Width and height of the window, pixels.
        seconds: How long the page may load and draw, by its own clock.

    Raises:
        ScreenshotError: There are no logs, no browser, or one of the programs failed.
    """
    if not any(folder.rglob("events.out.tfevents.*")):
        raise ScreenshotError(f"{folder}: holds no TensorBoard logs; name a study's folder, such as runs/default")
    named = os.environ.get("CHROMIUM")
    browser = next((path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))), None)
    if browser is None:
        raise ScreenshotError(
            f"none of {named or ', '.join(BROWSERS)} is installed; on Debian: apt-get install chromium, or let CHROMIUM "
            "name the program"
        )
    picture.unlink(missing_ok=True)
    query = {"runFilter": runs, "tagFilter": tags, "regexInput": runs, "_smoothingWeight": "0"}
    with _tensorboard(folder) as address, tempfile.TemporaryDirectory() as profile:
        url = f"{address}/#timeseries" + "".join(f"&{k}={urllib.parse.quote(v)}" for k, v in query.items())
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--use-gl=swiftshader",
            "--enable-unsafe-swiftshader", f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}",
            f"--virtual-time-budget={int(1000 * seconds)}", f"--screenshot={picture.resolve()}", url,
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS + 10 * seconds)
    if not picture.is_file():
        raise ScreenshotError(f"{browser} made no picture: {result.stderr.strip()[-1000:]}")


@contextmanager
def _tensorboard(folder: Path) -> Iterator[str]:
    """A TensorBoard on a free port of this machine; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--reload_interval", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"{address}/data/runs", server)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until TensorBoard has read its logs."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.read().strip() not in (b"", b"[]"):
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        time.sleep(0.5)
    raise ScreenshotError(f"TensorBoard did not answer at {url} within {START_SECONDS} seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take a picture from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a study, or any folder with logs")
    parser.add_argument("picture", type=Path, help="where the PNG goes")
    parser.add_argument("--runs", default="total$", help="regular expression of the runs to show")
    parser.add_argument("--tags", default="mean_degrees|distance|loss", help="regular expression of the tags to show")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seconds", type=float, default=30, help="how long the page may load and draw")
    options = parser.parse_args(arguments)
    try:
        screenshot(
            options.folder,
            options.picture,
            runs=options.runs,
            tags=options.tags,
            size=tuple(options.size),
            seconds=options.seconds,
        )
    except ScreenshotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
