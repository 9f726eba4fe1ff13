"""A renderer behind the command protocol of docs/black-box.md, with nothing but the standard library and NumPy.

    echo '{"id": 1, "parameters": {"radius": 0.5, "brightness": 0.9}, "seed": 7, "folder": "."}' | python worker.py

Replace `render` by your own, and keep the rest.
"""

import json
import os
import sys

import numpy as np


def render(parameters, seed):
    """An image of a disc, where its centre is, and which pixels count."""
    x, y = np.random.default_rng(seed).uniform(-0.3, 0.3, 2)  # what is random besides the parameters: from the seed
    grid = np.linspace(-1, 1, 16)
    inside = np.hypot(grid - x, grid[:, None] - y) < parameters["radius"]
    image = parameters["brightness"] * inside[None].astype(np.float32)
    return {"image": image, "target": image > 0, "mask": np.ones((1, 16, 16), np.float32)}


answers = os.fdopen(os.dup(1), "w")  # whatever else writes to standard output does not disturb the answers
os.dup2(2, 1)
print(json.dumps({"ready": True}), file=answers, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    answer = {"id": asked["id"], "npz": "sample.npz"}
    try:
        np.savez(os.path.join(asked["folder"], answer["npz"]), **render(asked["parameters"], asked["seed"]))
    except Exception as error:
        answer = {"id": asked["id"], "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)
