"""The programs of docs/your-model.md run as they stand, with fewer epochs and images."""

import contextlib
import importlib
import io
import re
import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from shortened import brief_suites

PAGE = (Path(__file__).parents[2] / "docs" / "your-model.md").read_text()
PROGRAMS = dict(re.findall(r"^## (\w+).*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))
SETTINGS = 'EPOCHS, IMAGES, SUITE = 15, 100, "standard"'


@pytest.mark.parametrize(
    ("title", "module"),
    [
        ("SpikingJelly", "spikingjelly.activation_based.neuron"),
        ("snnTorch", "snntorch"),
        ("Norse", "norse.torch"),
        ("NIR", "spikingjelly.activation_based.nir_exchange"),
    ],
)
def test_a_program_of_the_page_ends_with_a_verdict(title, module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the program of NIR writes its file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            pytest.skip(f"needs {module.split('.')[0]}: {error}")
    program = PROGRAMS[title]
    assert SETTINGS in program
    said = io.StringIO()
    short = {"steps": 3, "restarts": 1, "refine": 3, "queries": 10}
    with contextlib.redirect_stdout(said), brief_suites(short):
        exec(program.replace(SETTINGS, 'EPOCHS, IMAGES, SUITE = 1, 10, "quick"'), {})
    assert re.search(r"^  robust +\d", said.getvalue(), re.MULTILINE)
    assert re.search(r"^  verdict +\w", said.getvalue(), re.MULTILINE)


def test_the_page_names_the_tested_versions():
    from spikeproof.interop.frameworks.wrap import FRAMEWORKS

    for adapter in FRAMEWORKS:
        assert f"{adapter.title} {adapter.tested}" in PAGE
