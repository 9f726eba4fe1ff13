"""Where and with what a run was made, and on what data."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import hgenv
from hgenv.problem import Data

# What bits can depend on, besides code and settings.
NUMERICAL = ("numpy", "numba", "llvmlite", "scipy", "nevergrad", "cma", "opencv-python-headless", "manifold3d")
PACKAGES = ("gymnasium", "numpy", "nevergrad", "trimesh", "hydra-core", "tensorboard")


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine, and what of it torch uses."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
    }


def numerics(device: torch.device) -> dict[str, Any]:
    """The platform as far as results may differ in their last bits from one to another."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "machine": platform.machine(),
        "cpu": hardware(device)["cpu"],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "libc": " ".join(platform.libc_ver()),
        "torch": torch.__version__,
        "build": hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:12],  # BLAS, compiler
        "threads": torch.get_num_threads(),
        "gpu": None if gpu is None else f"{gpu.name}, {gpu.major}.{gpu.minor}",
        "cuda": None if gpu is None else f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        **_versions(NUMERICAL),
    }


def fingerprint(facts: dict[str, Any]) -> str:
    """Twelve digits for a platform, or whatever else JSON can say."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def fingerprint_of_data(data: Data) -> str:
    """Sixteen digits for the samples that the network is scored on, bit by bit."""
    digest = hashlib.sha256()
    for tensor in data.samples.tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what can change the numbers."""
    return {"python": platform.python_version(), "hgenv": hgenv.__version__, "torch": torch.__version__} | _versions(
        PACKAGES
    )


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The commit of this code, with `-dirty` if it was changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None
