"""One thread for every test: several run side by side, and results do not depend on the machine."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
