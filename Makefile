# make setup, make test, make demo: each says at its end what to do next.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
FRAMES ?= 0
RATE ?= 0
OUT ?= out/demo
demo_args = --frames $(FRAMES) --rate $(RATE) --out "$(OUT)" \
  $(if $(VIDEO),--video "$(VIDEO)") $(if $(PROMPT),--prompt "$(PROMPT)")

# A sourced ROS distribution must not mix with the one in $(VENV).
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH
unexport PYTHONHOME VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help setup test lint core-test ros-test demo clean

help:
	@echo "make demo    track an object in a synthetic 360 stream; result in $(OUT)"
	@echo "             VIDEO=file PROMPT=\"point:U,V\" does it in a video of yours"
	@echo "make test    linting, types, import rules, and all tests"
	@echo "make setup   builds $(VENV); the others call it (see scripts/setup_env.sh for options)"
	@echo "make clean   removes $(VENV), out, build"

setup:
	@VENV="$(VENV)" scripts/setup_env.sh

test: setup
	@$(MAKE) --no-print-directory lint core-test ros-test
	@printf '\nAll tests passed. Next: make demo shows the tracker at work.\n'

lint:
	@echo "== ruff" && $(PY) -m ruff check . && $(PY) -m ruff format --check .
	@echo "== mypy" && $(PY) -m mypy
	@echo "== import rules" && $(VENV)/bin/lint-imports --no-cache
	@echo "== docstrings" && $(PY) -m interrogate -q panosam2_core panosam2_ros && echo "all documented"

core-test:
	@echo "== core tests" && $(PY) -m pytest test/core -p no:cacheprovider $(PYTEST_ARGS)

ros-test:
	@echo "== ROS tests" && $(PY) -m pytest test/ros test/launch -p no:cacheprovider $(PYTEST_ARGS)

demo: setup
	@$(PY) -m panosam2_ros.demo $(demo_args)

clean:
	rm -rf "$(VENV)" out build install log .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@echo "Clean. Next: make demo builds everything again."
