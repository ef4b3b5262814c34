# `make demo` and `make test` are all that a fresh clone needs: each creates the virtual environment it runs in.
PYTHON ?= python3
VENV ?= .venv
COLCON_VENV ?= .venv-colcon
INPUT ?=
TOPIC ?=
COLCON_FLAGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

ifdef ROS_DISTRO
# Beside a sourced ROS distribution its rclpy wins, and its NumPy is the one that its messages were compiled against.
EXTRAS := cpu,training,test
VENV_FLAGS := --system-site-packages
SYSTEM_NUMPY := $(shell $(PYTHON) -c "import numpy; print('numpy==' + numpy.__version__)" 2>/dev/null)
else
EXTRAS := cpu,ros,training,backends,test
export AMENT_PREFIX_PATH := $(abspath $(VENV))
endif

.PHONY: demo test lint benchmark build clean help

help:
	@echo "make demo [INPUT=path] [TOPIC=name]   run the front-end on a bag, a video or a folder; default: the own sequence"
	@echo "make test                             lint, types and tests"
	@echo "make lint | benchmark | build | clean"

demo: $(INSTALLED)
	$(BIN)/python -m superpoint_ros.demo $(if $(INPUT),"$(INPUT)") $(if $(TOPIC),--topic "$(TOPIC)")

# Tests that need ROS skip without it; here it must be there. Those of the nodes have the machine to themselves. Others run
# beside each other, one thread of torch in each, in processes without the threads that DDS starts: training's fork. These
# have the longest files and begin.
test: lint
	$(BIN)/python -c 'import rclpy, sensor_msgs.msg'
	$(BIN)/python -m pytest test/nodes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--ignore=test/nodes test/training test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmark: $(INSTALLED)
	$(BIN)/python -m superpoint_ros.benchmark

build: $(COLCON_VENV)/.installed
	$(COLCON_VENV)/bin/colcon build $(COLCON_FLAGS)

$(INSTALLED): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	printf '%s\n' $(SYSTEM_NUMPY) > $(VENV)/system-constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -c $(VENV)/system-constraints.txt -e '.[$(EXTRAS)]'
	touch $@

# colcon's setuptools and empy are older than the ones the environment above may have.
$(COLCON_VENV)/.installed:
	$(PYTHON) -m venv $(VENV_FLAGS) $(COLCON_VENV)
	$(COLCON_VENV)/bin/python -m pip install --quiet colcon-common-extensions 'setuptools<80' 'pytest<9'
	touch $@

clean:
	rm -rf build install log out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)*' -prune -exec rm -rf {} +
