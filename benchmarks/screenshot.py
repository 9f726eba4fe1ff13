"""Open a study's TensorBoard in headless Chromium and save what is seen: the curves against computation time.

    python -m hgenv.benchmarks.screenshot runs/<study> curves.png

Needs the programs `chromium` and `chromedriver` (Debian: `apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .board import FILES
from .records import ROWS

START_SECONDS = 60
RUNS = r"(seed=[0-9]+|^\.)$"  # the curves against total computation time, not those of a single clock besides

# What a user would click: the time series against "Relative" time, which here is computation time.
RELATIVE_AXIS = """
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
const find = async selector => {
  for (let i = 0; i < 100; i++) {
    const found = [...document.querySelectorAll(selector)];
    if (found.length) return found;
    await wait(100);
  }
  throw new Error("TensorBoard has no " + selector);
};
(await find("metrics-dashboard-settings-component tb-dropdown .mat-mdc-select-trigger"))[0].click();
(await find("mat-option")).find(option => option.innerText.trim() == "Relative").click();
await wait(500);
(await find("button")).find(button => button.innerText.includes("Settings"))?.click();
"""


class ScreenshotError(RuntimeError):
    """What is needed for a picture is not there. The message says what, and the cure."""


def screenshot(folder: Path, picture: Path, *, runs: str, tags: str, size: tuple[int, int], seconds: float) -> None:
    """Save a PNG of the time series dashboard.

    Args:
        folder: Logs.
        picture: Where the PNG goes.
        runs: Regular expression of the runs to show; by default not those of a single clock.
        tags: Regular expression of the tags to show.
        size: Width and height of the window, pixels.
        seconds: How long the page may draw.

    Raises:
        ScreenshotError: There are no logs, no browser, or one of the programs failed.
    """
    if not any(folder.rglob(FILES)):
        raise ScreenshotError(f"{folder}: holds no TensorBoard logs; name a study's folder, such as runs/default")
    query = urllib.parse.urlencode({"runFilter": runs, "tagFilter": tags, "smoothing": 0})
    with browser(size) as page, _tensorboard(folder) as address:
        page.open(f"{address}/?{query}#timeseries")
        script = (
            f"const done = arguments[0]; (async () => {{{RELATIVE_AXIS}}})().then(() => done(''), e => done('' + e));"
        )
        trouble = page.ask(script, wait=True)
        if trouble:
            raise ScreenshotError(f"the page is not as expected, so there is no picture: {trouble}")
        time.sleep(seconds)
        picture.write_bytes(page.picture())


def main_tags(folder: Path) -> str:
    """A regular expression of the loss and of what the runs in a folder call their primary metrics."""
    names = set()
    for rows in folder.rglob(ROWS):
        with rows.open() as lines:
            first = json.loads(next(lines, "{}"))
        names |= {re.escape(metric["name"]) for metric in first.get("metrics", [])[:1]}
    return "|".join(["^loss$", *(f"/{name}$" for name in sorted(names))])


@dataclass(frozen=True)
class Page:
    """What a headless browser shows (W3C WebDriver).

    Attributes:
        session: Address of the browser's session.
    """

    session: str

    def open(self, place: str | Path) -> None:
        """Go to an address, or to a file."""
        address = place.absolute().as_uri() if isinstance(place, Path) else place
        _ask(f"{self.session}/url", {"url": address})

    def ask(self, script: str, *, wait: bool = False) -> Any:
        """What a script returns; with `wait`, what it gives to the function that is its only argument."""
        return _ask(f"{self.session}/execute/{'async' if wait else 'sync'}", {"script": script, "args": []})

    def picture(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(_ask(f"{self.session}/screenshot"))


@contextmanager
def browser(size: tuple[int, int]) -> Iterator[Page]:
    """A headless Chromium.

    Raises:
        ScreenshotError: There is none.
    """
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        raise ScreenshotError(
            f"{' and '.join(missing)} not found; on Debian: apt-get install chromium chromium-driver; elsewhere, put "
            "programs of these names in PATH"
        )
    port = _free_port()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}/status", driver)
        options = {"args": ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size[0]},{size[1]}"]}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        name = _ask(f"http://127.0.0.1:{port}/session", wanted)["sessionId"]
        session = f"http://127.0.0.1:{port}/session/{name}"
        try:
            yield Page(session)
        finally:
            _ask(session, method="DELETE")
    finally:
        driver.terminate()
        driver.wait()


def _ask(address: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """The value that a WebDriver command answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=2 * START_SECONDS) as reply:
            return json.load(reply)["value"]
    except urllib.error.HTTPError as error:
        raise ScreenshotError(f"the browser refused {address}: {error.read().decode(errors='replace')[:500]}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _tensorboard(folder: Path) -> Iterator[str]:
    """A TensorBoard on a free port of this machine; gives its address."""
    port = _free_port()
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
    """Wait until a server has something to say; TensorBoard, once it has read its logs."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.read().strip() not in (b"", b"[]"):
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        time.sleep(0.5)
    raise ScreenshotError(f"nothing answered at {url} within {START_SECONDS} seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take a picture from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hgenv.benchmarks.screenshot", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="a study, or any folder with logs")
    parser.add_argument("picture", type=Path, help="where the PNG goes")
    parser.add_argument("--runs", default=RUNS, help="regular expression of the runs to show")
    parser.add_argument("--tags", help="regular expression of the tags to show; default: loss and primary metrics")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1000), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--seconds", type=float, default=5, help="how long the page may draw")
    options = parser.parse_args(arguments)
    try:
        screenshot(
            options.folder,
            options.picture,
            runs=options.runs,
            tags=options.tags or main_tags(options.folder),
            size=(options.size[0], options.size[1]),
            seconds=options.seconds,
        )
    except ScreenshotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
