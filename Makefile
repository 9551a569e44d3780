PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint

# create .venv with segtrain in it; again only when pyproject.toml changes
install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.installed-tests: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/.installed-lint: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[lint]'
	touch $@

# fit, eval and predict on the embedded demo
demo: install
	$(BIN)/segtrain fit --data demo
	$(BIN)/segtrain eval
	$(BIN)/segtrain predict demo --legend
	@echo
	@echo "report:     $$(readlink -f runs/latest)/eval/val/report.html"
	@echo "overlay:    $(CURDIR)/predictions/160_overlay.png"
	@echo "checkpoint: $$(readlink -f runs/latest)/checkpoints/best.safetensors"

test: .venv/.installed-tests
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 2

lint: .venv/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32
