# Each target makes its own virtual environment from nothing and does its job.
PYTHON ?= python3
DEMO_VENV := .venv-demo
TEST_VENV := .venv-test
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: demo test test-slow lint wheel-check clean

demo: $(DEMO_VENV)/.done
	@start=$$(date +%s); \
	$(DEMO_VENV)/bin/cellseg1-rt demo -o demo-output && \
	echo "set-up took $$(cat $(DEMO_VENV)/.done) s, the demo $$(( $$(date +%s) - start )) s"

# Tests take one core each for the most part. A process needs up to 3 GB, hence no more than four.
test: lint wheel-check
	$(TEST_VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/python -m pytest -m "slow or not slow"

wheel-check: $(TEST_VENV)/.done
	rm -rf dist
	$(TEST_VENV)/bin/python -m build --wheel --outdir dist . > /dev/null
	$(TEST_VENV)/bin/python tests/check_wheel.py dist/*.whl

lint: $(TEST_VENV)/.done
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/mypy
	$(TEST_VENV)/bin/lint-imports

$(DEMO_VENV)/.done: pyproject.toml
	@start=$$(date +%s); rm -rf $(DEMO_VENV); \
	$(PYTHON) -m venv $(DEMO_VENV) && \
	$(DEMO_VENV)/bin/python -m pip install $(PIP_FLAGS) -e '.[cpu]' && \
	echo $$(( $$(date +%s) - start )) > $@

# torch and torchvision are named together because they must be of one pair.
$(TEST_VENV)/.done: pyproject.toml
	rm -rf $(TEST_VENV)
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/python -m pip install $(PIP_FLAGS) torch==2.14.1 torchvision==0.29.1
	$(TEST_VENV)/bin/python -m pip install $(PIP_FLAGS) -e '.[cpu,openvino,rtx,train,nifti,tables,zarr,ray,dev]'
	touch $@

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) demo-output build dist
