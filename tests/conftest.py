"""One thread for every test: several run side by side, and results do not depend on the machine."""

import gc
import os
import sys

import pytest
import torch

# Each of the many interpreters of a run would compile every module anew if none kept what it compiled.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, default=1, help="how many times as many generated cases to try")


def pytest_configure(config):
    """Files run in the order of their names, which ends with the short doctests and leaves no processor idle.

    pytest-xdist would begin with the files of many tests and end with those of few, which are the longest.
    """
    torch.set_num_threads(1)
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays until the end, so that the garbage collector need not visit it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000)  # new objects, most of which die by themselves
        gc.enable()


@pytest.fixture
def cases(pytestconfig):
    """By how much laws over generated cases multiply their number."""
    return pytestconfig.getoption("--cases")
