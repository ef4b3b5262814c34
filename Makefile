# `make demo` and `make test` are all that a fresh clone needs: each creates the virtual environment it runs in.
PYTHON ?= python3
VENV ?= .venv
COLCON_VENV ?= .venv-colcon
INPUT ?=
TOPIC ?=
CAMERA_INFO ?=
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

.PHONY: demo test test-nodes test-others lint benchmark build clean help

help:
	@echo "make demo [INPUT=path] [TOPIC=name]   run the front-end on a bag, a video or a folder; default: the built-in sequence"
	@echo "make test                             lint, types and tests"
	@echo "make lint | benchmark | build | clean"

demo: $(INSTALLED)
	$(BIN)/python -m superpoint_ros.demo $(if $(INPUT),"$(INPUT)") $(if $(TOPIC),--topic "$(TOPIC)") \
		$(if $(CAMERA_INFO),--camera-info "$(CAMERA_INFO)")

# Tests that need ROS skip without it; here it must be there. Those of the nodes mostly wait, and the others take the time
# that they leave.
test: lint
	$(BIN)/python -c 'import rclpy, sensor_msgs.msg'
	@$(MAKE) --no-print-directory --keep-going --jobs=2 test-nodes test-others

# Shown when they are done, lest two mix their dots.
test-nodes:
	@mkdir -p out
	$(BIN)/python -m pytest test/nodes > out/test-nodes.log 2>&1; status=$$?; cat out/test-nodes.log; exit $$status

# Side by side, one thread of torch in each, in processes without the threads that DDS starts: training's fork. The longest
# file begins.
test-others:
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--ignore=test/nodes test/training/test_train_from_bag.py test/training test

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
