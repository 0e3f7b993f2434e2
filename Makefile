# make setup, make test, make demo: each says at its end what to do next.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
FRAMES ?= 0
RATE ?= 0
OUT ?= out/demo
JOBS ?= 2
demo_args = --frames $(FRAMES) --rate $(RATE) --out "$(OUT)" \
  $(if $(VIDEO),--video "$(VIDEO)") $(if $(PROMPT),--prompt "$(PROMPT)")

# A sourced ROS distribution must not mix with the one in $(VENV).
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH
unexport PYTHONHOME VIRTUAL_ENV _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help setup test check lint core-test ros-test coverage demo clean

help:
	@echo "make demo    track an object in a synthetic 360 stream; result in $(OUT)"
	@echo "             VIDEO=file PROMPT=\"point:U,V\" does it in a video of yours"
	@echo "make test    linting, types, import rules, and all tests, JOBS=2 at a time"
	@echo "make check   the same without the slowest tests, for every day"
	@echo "make coverage  lines of panosam2_ros that the ROS tests run"
	@echo "make setup   builds $(VENV); the others call it (see scripts/setup_env.sh for options)"
	@echo "make clean   removes $(VENV), out, build"

setup:
	@VENV="$(VENV)" scripts/setup_env.sh

test: setup
	@$(MAKE) --no-print-directory lint core-test ros-test
	@printf '\nAll tests passed. Next: make demo shows the tracker at work.\n'

check: setup
	@$(MAKE) --no-print-directory lint core-test ros-test PYTEST_ARGS='-m "not slow" $(PYTEST_ARGS)'

lint:
	@echo "== ruff" && $(PY) -m ruff check . && $(PY) -m ruff format --check .
	@echo "== mypy" && $(PY) -m mypy
	@echo "== import rules" && $(VENV)/bin/lint-imports --no-cache
	@echo "== docstrings" && $(PY) -m interrogate -q panosam2_core panosam2_ros && echo "all documented"

# One thread of torch each: two threads that wait for each other take longer than two processes.
# Tests stay in the order of their files, whose networks and clips are then built once or twice.
pytest = OMP_NUM_THREADS=1 $(PY) -m pytest -p no:cacheprovider -n $(JOBS) $(PYTEST_ARGS)

core-test:
	@echo "== core tests" && $(pytest) --dist worksteal test/core

# Each process has a ROS domain and a tracker of its own.
ros-test:
	@echo "== ROS tests" && $(pytest) --dist loadfile test/ros test/launch

coverage:
	@$(PY) -m coverage erase
	@OMP_NUM_THREADS=1 $(PY) -m coverage run -m pytest -p no:cacheprovider test/ros test/launch
	@$(PY) -m coverage combine -q && $(PY) -m coverage report --fail-under=90

demo: setup
	@$(PY) -m panosam2_ros.demo $(demo_args)

clean:
	rm -rf "$(VENV)" out build install log .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@echo "Clean. Next: make demo builds everything again."
