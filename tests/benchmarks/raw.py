"""Raw runs written by hand, so that what a report must say is known."""

import json
from pathlib import Path

METRICS = ("mean_degrees", "median_degrees", "within_11.25", "within_22.5", "within_30", "mse_radians2")
PHASES = ("generate", "train", "gradient", "validate", "optimizer", "score", "log", "checkpoint", "warm_up")


def descriptors():
    found = []
    for name in METRICS:
        up = name.startswith("within")
        title = {"mean_degrees": "mean (°)"}.get(name, name)
        found.append({"name": name, "title": title, "unit": "%" if up else "°", "direction": "max" if up else "min"})
    return found


def make_run(
    root: Path,
    optimizer: str,
    seed: int,
    errors,
    *,
    done=True,
    amount=10.0,
    overshoot=False,
    tests=None,
    gpu=0.0,
    env=None,
) -> Path:
    """A run that spends 2 s an update.

    Args:
        root: Folder of the study's folder.
        optimizer: Its label.
        seed: Its seed.
        errors: Mean errors on test, update by update; those on validation are 1 larger.
        done: Whether it has ended.
        amount: Its budget in seconds.
        overshoot: Whether the last update is beyond it.
        tests: Mean errors on test, where these are others.
        gpu: Seconds of an update on a GPU.
        env: Its environment.
    """
    env = env or {"id": "hgenv/Quadratic-v0", "label": "quadratic"}
    folder = root / "study" / env["label"] / optimizer / f"seed={seed}"
    folder.mkdir(parents=True)
    config = {
        "schema": 3,
        "env": env,
        "optimizer": {"_target_": "hgenv.optimizers.Fixed", "label": optimizer, "initial": None},
        "budget": {"amount": amount, "unit": "total_seconds"},
        "study": "study",
        "seed": seed,
        "where": {"device": "auto", "threads": 1, "prober": None, "cuda_graphs": True, "picture_updates": 50},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    rows = []
    for update, error in enumerate(errors):
        shown = error if tests is None else tests[update]
        test = {name: shown + k for k, name in enumerate(METRICS)} | {"mean_degrees/pear": 1.0}
        test["mse_radians2"] = shown / 100
        spent = {"cpu_seconds": (2.0 - gpu) * update, "gpu_seconds": gpu * update, "total_seconds": 2.0 * update}
        spent |= {"wall_seconds": 3.0 * update, "updates": update}
        spent |= dict.fromkeys(("samples", "training_steps", "gradient_steps", "validation_passes"), 7 * update)
        rows.append({
            "update": update, "status": "OK", "message": "", "loss": 0.1, "beta": [0.0, 0.0, 0.0, 0.5],
            "recommendation": [0.1 * update, 0.0, float(seed), 0.5], "spent": spent | {"flops": 10**12 * update},
            "within_budget": not (overshoot and update == len(errors) - 1),
            "validation": {**test, "mean_degrees": error + 1}, "test": test,
        })  # fmt: skip
    rows[0] |= {
        "data": {"validation": "stand-in validation", "test": "stand-in test"},
        "blocks": [{"name": "position", "unit": "1", "size": 3}, {"name": "spread", "unit": "m", "size": 1}],
        "device": "cpu",
        "metrics": descriptors(),
    }
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        phase = {"cpu_seconds": 1.0, "gpu_seconds": 0.5, "wall_seconds": 1.0}
        end = {
            "status": "finished", "message": "", "rows": len(rows), "phases": dict.fromkeys(PHASES, phase),
            "hardware": {"cpu": "abacus"}, "versions": {"torch": "9"}, "commit": "abc", "command": f"run seed={seed}",
        }  # fmt: skip
        (folder / "DONE.json").write_text(json.dumps(end))
    return folder


def change_rows(folder: Path, change) -> None:
    """Rewrite a run's rows by a function of the list of them."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    change(rows)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_config(folder: Path, change) -> None:
    """Rewrite what decided a run by a function of it."""
    config = json.loads((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(json.dumps(config))
