# make demo    set everything up, then run LAMMPS and i-PI with the shipped model
# make test    set everything up, then run all tests, a process on each core (four at most)
# make check   lint and types
# make docs    the documentation, in docs/_build/html
# make figures everything that the documentation quotes, printed anew into figures/ (a day)

PYTHON ?= python3
# The CPU build is enough; set TORCH to install another one.
TORCH ?= torch==2.13.0
BIN = .venv/bin

.PHONY: demo test check docs figures install clean

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python examples/demo.py

test: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mlh_driver

docs: install
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

figures: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/figures.py

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,docs,label,siesta,cluster,mpi]'
	touch $@

clean:
	rm -rf .venv demo_output docs/_build docs/generated
