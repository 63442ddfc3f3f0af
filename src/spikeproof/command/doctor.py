"""What a machine has: versions, devices, threads, and the data sets found on it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from spikeproof.catalogue.names import PARTS
from spikeproof.datasets import DatasetSpec
from spikeproof.errors import InputError

__all__ = ["examine"]

PACKAGES = ("spikeproof", "torch", "numpy", "jaxtyping", "pydantic", "safetensors", "pyarrow", "matplotlib")


def examine(data: Path | None = None) -> dict[str, dict[str, str]]:
    """Topic -> name -> finding, each in a few words.

    Args:
        data: a directory that may hold data sets, looked into first.

    Example:
        >>> sorted(examine())
        ['data', 'devices', 'threads', 'versions']
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "devices": {"cpu": platform.processor() or platform.machine(), **_accelerators()},
        "threads": {"cores": str(os.cpu_count() or "unknown"), "torch": str(torch.get_num_threads())},
        "data": {name: _data(data_set(), data) for name, data_set in PARTS[DatasetSpec].items()},
    }


def _data(data_set: DatasetSpec, root: Path | None) -> str:
    """Where a data set would be read from, and what has to be said of what lies there."""
    try:
        return "; ".join((data_set.locate(root), *data_set.survey(root)))
    except InputError as error:
        return f"{data_set.locate(root)}; not usable: expected {error.expected}, got {error.got}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _accelerators() -> dict[str, str]:
    return {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
