# Two commands set everything up on a machine that has Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 4
TOOLS := $(CURDIR)/tools

# Tests and benches start hundreds of processes, and without kept bytecode each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

BUF_VERSION := 1.75.0
EVENTS_NPM := @nats-io/transport-node@3.4.0 @nats-io/jetstream@3.4.0 protobufjs@8.8.1 @asyncapi/specs@6.11.1
GEN_GO_VERSION := v1.36.11
GEN_GO_GRPC_VERSION := v1.6.2
KUSTOMIZE_VERSION := v5.7.1
KUBECONFORM_VERSION := v0.7.0
NATSCLI_VERSION := v0.5.1

# A later Python, if one is at hand, for `make test-next`.
NEXT_PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 $$(ls -d $$(pyenv root 2>/dev/null)/versions/3.1[2-9]*/bin/python3 2>/dev/null | sort -rV); do $$p -c '' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo up cluster test test-cluster test-image test-guarded test-next model faults abuse check format bench proto dashboard system lock clean

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: install it, or set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once, about half a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

demo: $(VENV)/.ready ## Starts the whole system on free ports, shows a conversation and an agent with tools, stops
	@$(BIN)/python -m qingyu_ai.cli demo

up: $(VENV)/.ready ## Starts the whole system in the foreground; Ctrl-C stops it
	@$(BIN)/python -m qingyu_ai.cli up

cluster: $(VENV)/.ready ## Starts three NATS servers as one cluster in the foreground; Ctrl-C stops it
	@$(BIN)/python -m qingyu_ai.cli cluster

test: $(VENV)/.ready ## Runs all tests, on a real nats-server and real processes
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

test-cluster: $(VENV)/.ready ## Runs the tests of bus, bridge and whole systems on three nats-servers with three copies of everything
	@TEST_NATS=cluster $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/bus tests/bridge tests/e2e

test-image: $(VENV)/.ready ## Builds the image's contents in a clean root (debootstrap; as root, 2 minutes) and starts each process in it
	@TEST_IMAGE=1 $(BIN)/python -m pytest tests/deploy/test_image.py

test-guarded: $(VENV)/.ready ## Runs the tests of whole systems on a nats-server with users and permissions, and counts violations
	@TEST_NATS=guarded $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/e2e tests/doors

test-next: ## Runs the tests on a later Python, if one is at hand
	@if [ -n "$(NEXT_PYTHON)" ]; then \
	  $(MAKE) --no-print-directory test-in PYTHON=$(NEXT_PYTHON) VENV=.venv-next; \
	else echo "no later Python at hand: left out"; fi

.PHONY: test-in
test-in: $(VENV)/.ready
	@$(BIN)/python --version
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not once"

check: $(VENV)/.ready ## Lint, format, types, generated code, manifests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m proto.generate --check
	@$(BIN)/python -m deploy.check

format: $(VENV)/.ready ## Formats the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

model: $(VENV)/.ready ## Explores the protocol in every order of its steps, and shows what each rule is for (about 12 minutes)
	@$(BIN)/python -m tests.model

faults: $(VENV)/.ready ## Kills and freezes what there is, and counts what its callers get (40 minutes; ROW=… for one row)
	@$(BIN)/python -m tests.faults $(if $(CONTROLS),--controls) $(ROW)

abuse: $(VENV)/.ready ## Calls a system with forged tokens, other tenants' ids and ids that are made to break out, and counts
	@$(BIN)/python -m tests.abuse

bench: $(VENV)/.ready ## Measures what a call and a model's answer cost, beside other servers and clients (about 20 minutes; NOVEL=… as in docs/retrieval.md)
	@$(BIN)/python -m bench.bridge
	@$(BIN)/python -m bench.guards
	@$(BIN)/python -m bench.doors
	@$(BIN)/python -m bench.models
	@$(BIN)/python -m bench.proxy
	@$(BIN)/python -m bench.agents
	@$(BIN)/python -m bench.events
	@$(BIN)/python -m bench.search --text $(or $(NOVEL),examples/novel/chendengdu.txt)
	@$(if $(NOVEL),$(BIN)/python -m bench.retrieval $(NOVEL) && $(BIN)/python -m bench.retrieval --grpc $(NOVEL) && $(BIN)/python -m bench.retrieval.ts_rank $(NOVEL))

proto: $(VENV)/.ready ## Regenerates the code of proto/*.proto
	@$(BIN)/python -m proto.generate

system: ## Installs the optional tools into tools/ (buf, what the example in Node needs, Go plugins, kustomize, kubeconform, promtool, nats), and nginx, chromium and debootstrap (root, Debian)
	@mkdir -p $(TOOLS)/bin
	@if command -v npm >/dev/null; then \
	  npm install --silent --no-fund --no-audit --prefix $(TOOLS)/npm @bufbuild/buf@$(BUF_VERSION) $(EVENTS_NPM) \
	  && ln -sf ../npm/node_modules/.bin/buf $(TOOLS)/bin/buf && echo "buf $(BUF_VERSION)"; \
	else echo "npm is not here: buf is left out, and so are the tests that need it"; fi
	@if command -v go >/dev/null; then \
	  GOBIN=$(TOOLS)/bin go install google.golang.org/protobuf/cmd/protoc-gen-go@$(GEN_GO_VERSION) \
	  && GOBIN=$(TOOLS)/bin go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(GEN_GO_GRPC_VERSION) \
	  && echo "protoc-gen-go $(GEN_GO_VERSION), protoc-gen-go-grpc $(GEN_GO_GRPC_VERSION)" \
	  && GOBIN=$(TOOLS)/bin go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION) \
	  && GOBIN=$(TOOLS)/bin go install github.com/yannh/kubeconform/cmd/kubeconform@$(KUBECONFORM_VERSION) \
	  && GOBIN=$(TOOLS)/bin go install github.com/nats-io/natscli/nats@$(NATSCLI_VERSION) \
	  && echo "kustomize $(KUSTOMIZE_VERSION), kubeconform $(KUBECONFORM_VERSION), nats $(NATSCLI_VERSION)"; \
	else echo "go is not here: the Go client, the check of the manifests and nats are left out, and so are their tests"; fi
	@test -f $(TOOLS)/schemas/.of-$$(cksum < deploy/schemas.py | cut -d ' ' -f 1) \
	  || { rm -rf $(TOOLS)/schemas && $(PYTHON) -m deploy.schemas $(TOOLS)/schemas \
	  && touch $(TOOLS)/schemas/.of-$$(cksum < deploy/schemas.py | cut -d ' ' -f 1); }
	@echo "schemas of Kubernetes, KEDA and the Prometheus operator"
	@sh deploy/tools.sh $(TOOLS)
	@tests/programs.sh

dashboard: $(VENV)/.ready ## Writes deploy/grafana/qingyu-ai.json anew
	@$(BIN)/python -m deploy.grafana.dashboard

lock: $(VENV)/.ready ## Resolves the versions anew into requirements/ (hashed, no addresses)
	@for extra in run dev; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-annotate --no-header $$([ $$extra = dev ] && echo --extra dev) \
	    pyproject.toml -o requirements/$$extra.txt; done
	@# What builds the wheel in the image.
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --no-annotate --no-header - -o requirements/build.txt

clean: ## Removes what the targets made, except the data of `make up`
	@rm -rf .venv .venv-next tools build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
