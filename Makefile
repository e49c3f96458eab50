# Two commands for a newcomer: `make demo` and `make test`. Everything is installed into .venv from constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast install help-text clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/edgepress run models/digits/recipe.toml -o runs/digits
	@echo
	@echo "Next, your own photos, one folder per class: $(BIN)/edgepress run photos/ -o runs/photos"

test: install
	$(BIN)/python -m pytest

test-fast: install
	$(BIN)/python -m pytest -m "not tensorflow and not slow and not device"

# The help that `edgepress -h` prints without importing click.
help-text:
	mkdir -p src/edgepress/data
	$(BIN)/python -m edgepress.cli > src/edgepress/data/help.txt

clean:
	rm -rf $(VENV) runs build
