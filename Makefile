PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test format clean

quickstart: .venv/run
	$(BIN)/spikeproof run quickstart

test: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q --durations=10

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "spikeproof needs Python 3.11 or newer: try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[study]'
	touch $@

.venv/test: .venv/run
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[study,dev]'
	# torchattacks asks for torchvision and an old requests; the attacks we compare with need neither
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt torchattacks
	# so do the frameworks whose networks the tests wrap; these are what they do need beside what is there
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt \
		spikingjelly snntorch norse sinabs loguru nir nirtorch pbr
	# trainings on several devices need no more of Lightning Fabric than these two
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt lightning-fabric lightning-utilities
	# and the libraries that distances of spike trains are compared with
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt pyspike elephant neo quantities
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info
