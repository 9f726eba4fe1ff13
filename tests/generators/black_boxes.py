"""Renderers for worker processes, good ones and bad ones; light, since each process imports it anew."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sample = dict[str, NDArray[Any]]

SIZE = 4


def render(parameters: dict[str, Any], seed: int) -> Sample:
    """Noise around a number; and what was given, to be looked at."""
    assert 0 <= seed < 2**31
    noise = np.random.default_rng(seed).normal(size=(1, SIZE, SIZE))
    image = parameters["level"] + 0.1 * noise + 0.3 * parameters.get("on", False)
    return {"image": image, "target": np.full((1, SIZE, SIZE), parameters["level"]), "mask": np.ones((1, SIZE, SIZE))}


def chatty(parameters: dict[str, Any], seed: int) -> Sample:
    """Writes to standard output, by Python and below it."""
    print("a line that nobody asked for", {"id": 1})
    os.write(1, b'{"id": 1}\n' + 2**20 * b"x")
    return render(parameters, seed)


def counted(parameters: dict[str, Any], seed: int) -> Sample:
    """Leaves a file for every call."""
    folder = Path(os.environ["BLACK_BOX_FOLDER"])
    (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
    return render(parameters, seed)


def burns(parameters: dict[str, Any], seed: int) -> Sample:
    """Takes a tenth of a second of CPU time, and the ticks that the system's clock of another process may lose."""
    end = time.process_time() + 0.13
    while time.process_time() < end:
        pass
    return render(parameters, seed)


def leaks(parameters: dict[str, Any], seed: int) -> Sample:
    """Keeps 64 MiB of every sample."""
    KEPT.append(np.ones(2**23))
    return render(parameters, seed) | {"target": np.full((1, SIZE, SIZE), len(KEPT))}


KEPT: list[NDArray[Any]] = []


# Bad ones: from a level of 0.5 on, unless they always are.


def raises(parameters: dict[str, Any], seed: int) -> Sample:
    if parameters["level"] >= 0.5:
        raise ValueError("the sphere is\ninside out")
    return render(parameters, seed)


def exits(parameters: dict[str, Any], seed: int) -> Sample:
    if parameters["level"] >= 0.5:
        sys.exit("no display")
    return render(parameters, seed)


def dies(parameters: dict[str, Any], seed: int) -> Sample:
    if parameters["level"] >= 0.5:
        print("GPU on fire", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
    return render(parameters, seed)


def dies_once(parameters: dict[str, Any], seed: int) -> Sample:
    first = Path(os.environ["BLACK_BOX_FOLDER"], "died")
    if not first.exists():
        first.touch()
        os._exit(3)
    return render(parameters, seed)


def hangs(parameters: dict[str, Any], seed: int) -> Sample:
    if parameters["level"] >= 0.5:
        print("waiting for a licence")
        time.sleep(600)
    return render(parameters, seed)


def nan(parameters: dict[str, Any], seed: int) -> Sample:
    made = render(parameters, seed)
    if parameters["level"] >= 0.5:
        made["image"][0, 0] = np.nan
    return made


def reshapes(parameters: dict[str, Any], seed: int) -> Sample:
    made = render(parameters, seed)
    return made | {"image": made["image"][:, :2]} if parameters["level"] >= 0.5 else made


def retypes(parameters: dict[str, Any], seed: int) -> Sample:
    made = render(parameters, seed)
    return made | {"target": np.ones((1, SIZE, SIZE), int)} if parameters["level"] >= 0.5 else made


def uint8(parameters: dict[str, Any], seed: int) -> Sample:
    return render(parameters, seed) | {"image": np.zeros((1, SIZE, SIZE), np.uint8)}


def texts(parameters: dict[str, Any], seed: int) -> Sample:
    return render(parameters, seed) | {"image": np.array(["a"])}


def too_few(parameters: dict[str, Any], seed: int) -> Sample:
    return {"image": np.zeros(3)}


def too_many(parameters: dict[str, Any], seed: int) -> Sample:
    return render(parameters, seed) | {"depth": np.zeros(3)}


def nothing(parameters: dict[str, Any], seed: int) -> None:
    return None


def random(parameters: dict[str, Any], seed: int) -> Sample:
    made = render(parameters, seed)
    return made | {"image": made["image"] + np.random.default_rng().normal()}


BAD = (render, raises, exits, nan, reshapes, retypes, uint8, texts, too_few, too_many, nothing)


def any_of_them(parameters: dict[str, Any], seed: int) -> Any:
    """The one whose number is 100 times the level."""
    return BAD[round(100 * parameters["level"])]({"level": 0.75}, seed)


# As commands: `python -m tests.generators.black_boxes <kind>`.


def serve(kind: str) -> None:
    """Answer lines; badly, as the kind says."""
    if kind == "exits at once":
        sys.exit("no scene.blend here")
    print("Welcome to a renderer that likes to talk", flush=True)
    print(json.dumps({"ready": kind != "is not ready"}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print("rendering", asked["id"], flush=True)
        answer = {"id": asked["id"]} | answers(kind, asked)
        print("{this is no answer" if kind == "garbles" else json.dumps(answer), flush=True)


def answers(kind: str, asked: dict[str, Any]) -> dict[str, Any]:
    made = render(asked["parameters"], asked["seed"])
    path = Path(asked["folder"], "sample.npz")
    match kind:
        case "exits":
            print("out of memory", file=sys.stderr)
            sys.exit(7)
        case "hangs":
            time.sleep(600)
        case "burns":
            return answers("good", asked) if burns(asked["parameters"], asked["seed"]) else {}
        case "says why":
            return {"error": "the light is inside the wall"}
        case "answers another":
            return {"id": 0, "npz": "sample.npz"}
        case "names no file":
            return {"image": "sample.png"}
        case "has no file":
            return {"npz": "nowhere.npz"}
        case "cuts files":
            path.write_bytes(b"PK")
            return {"npz": path.name}
        case "images":
            import cv2

            level = asked["parameters"]["level"]
            colours = np.zeros((SIZE, SIZE, 3))
            colours[..., 2], colours[0, :, 1] = level, 1  # blue, green, red
            cv2.imwrite(f"{asked['folder']}/colours.png", np.round(255 * colours).astype(np.uint8))
            cv2.imwrite(f"{asked['folder']}/deep.png", np.full((SIZE, SIZE), round(65535 * level), np.uint16))
            np.savez(path, mask=made["mask"])
            return {"npz": str(path), "images": {"image": "colours.png", "target": "deep.png"}}
    np.savez(path, **made)
    return {"npz": path.name}


if __name__ == "__main__":
    serve(" ".join(sys.argv[1:]))
