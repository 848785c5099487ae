# `make` alone says what there is.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# The same suite in a process that was patched before anything else was imported, but for what runs in processes of its
# own, or looks at nothing of the runtime.
PATCHED := $(BIN)/python -m gevent.monkey --module pytest -m 'not stress and not own_process and not once'
# And on the other runtime. eventlet leaves out what is slow or about gevent; unpatched, all but the heart.
EVENTLET := $(BIN)/python -m tests.run_eventlet
ON_EVENTLET := tests/contract tests/cancel tests/faults tests/wire tests/worker tests/unit/runtime tests/unit/transport \
	$(wildcard tests/unit/test_*.py)
# Lanes run side by side, the long ones first: each of these is one, the rest of the suite another, and the first once
# more where all is patched. The rules of the house are `make check`.
FAULT_LANE := tests/faults tests/worker
CONTRACT_LANE := tests/contract
PROGRAM_LANE := tests/alias tests/cancel tests/compat tests/azure tests/docs tests/sqs tests/typing
UNIT_LANES := "$(PYTEST) -q -m 'not slow and not stress' tests/unit --ignore tests/unit/transport" \
	"$(PYTEST) -q -m 'not slow and not stress' tests/unit/transport"
ON_CURRENT := tests/contract tests/cancel tests/faults
HEART := tests/unit/runtime/test_contract.py tests/unit/transport/test_memory.py tests/cancel/test_pools.py
CONTRACT := tests/contract/test_delivery.py tests/contract/test_entities.py tests/contract/test_threads.py
# One server of each kind: of those that differ in how they are reached, the plain one.
ONE_OF_EACH := (amqp or redis or postgresql or sqs or mongodb or zookeeper or pyro or azure) and not (redis_ or sentinel)
CONTRACT_URLS := memory://localhost/contract fake-lease://localhost/contract fake-look://localhost/contract \
	fake-push://localhost/contract
# ruff has no place in setup.cfg, so its few settings stand here.
RUFF := $(BIN)/ruff check --isolated --no-cache --line-length 110 --target-version py310 \
	--select E,F,W,I,B,UP,C4,PIE,RUF100 --config 'lint.isort.known-first-party = ["greenmq", "tests"]'
SOURCES := greenmq greenmq_as_kombu.py tests benchmarks examples setup.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-current test-fast unit contract check docs linkcheck matrix release-check soak bench others clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

demo: $(VENV)/.installed  ## install the package into .venv and let greenlets count words over memory://
	$(BIN)/greenmq demo

test: $(VENV)/.tested  ## the whole suite, unpatched, patched, and on eventlet; installs missing servers where it may
	@.ci/servers
	@.ci/parts $(BIN)/python
	$(BIN)/python .ci/lanes \
		"$(PYTEST) -m 'not stress' $(FAULT_LANE)" \
		"$(PATCHED) $(patsubst %,--ignore %,$(FAULT_LANE) tests/house)" \
		"$(PATCHED) $(FAULT_LANE)" \
		"$(PYTEST) -m 'not stress' $(PROGRAM_LANE)" \
		"$(PYTEST) -m 'not stress' $(CONTRACT_LANE)" \
		"$(PYTEST) -m 'not stress' $(patsubst %,--ignore %,$(FAULT_LANE) $(PROGRAM_LANE) $(CONTRACT_LANE) tests/house)" \
		"$(EVENTLET) -m 'not slow and not stress and not once' $(ON_EVENTLET) && \
			$(EVENTLET) --unpatched -m 'not slow and not stress and not once' $(HEART)"

test-current: $(VENV)/.tested  ## contract, kills, faults and demo on RabbitMQ 4, Redis 8 and Valkey 8; takes root
	@.ci/servers
	.ci/current $(BIN)/python .ci/lanes \
		"GREENMQ_CURRENT=redis $(PYTEST) -m 'rabbitmq and not stress' $(ON_CURRENT)" \
		"GREENMQ_CURRENT=redis $(PYTEST) -m 'redis and not rabbitmq and not stress' $(ON_CURRENT)" \
		"GREENMQ_CURRENT=valkey $(PYTEST) -m 'redis and not rabbitmq and not stress' $(ON_CURRENT)"

unit: $(VENV)/.tested  ## the quick part of the suite, in less than a minute
	$(BIN)/python .ci/lanes $(UNIT_LANES)

test-fast: $(VENV)/.tested  ## the quick tests, unpatched, and the contract on one server of each kind: less than three minutes
	@.ci/servers
	$(BIN)/python .ci/lanes $(UNIT_LANES) "$(PYTEST) -m core -k '$(ONE_OF_EACH)' tests/contract"

contract: $(VENV)/.tested  ## what every broker is held to, on the in-process ones; URL=… names others, e.g. URL=redis://localhost/9
	GREENMQ_CONTRACT_URLS='$(or $(URL),$(CONTRACT_URLS))' $(PYTEST) -q $(if $(MODULE),-p $(MODULE)) $(CONTRACT)

check: $(VENV)/.tested  ## lint, types, the rules of the house, and the site without a warning
	$(RUFF) $(wildcard $(SOURCES))
	$(BIN)/mypy --no-incremental --cache-dir=/dev/null
	@$(MAKE) -s docs
	$(PYTEST) -q tests/house

docs: $(VENV)/.tested  ## the site, into docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -q -E -j 2 -W --keep-going -b html docs docs/_build/html
	@echo 'open docs/_build/html/index.html'

linkcheck: $(VENV)/.tested  ## do the links of the site to other sites lead somewhere? Needs a network
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

matrix:  ## unit tests and the contract on memory, on each Python there is, and with the lowest versions allowed
	@.ci/matrix

release-check:  ## is this a version that can go out? Builds, looks, installs, runs; publishes nothing
	@.ci/release $(PYTHON)

soak: $(VENV)/.tested  ## storms, leak slopes and thousands of greenlets: minutes
	@.ci/servers
	@.ci/parts $(BIN)/python
	GREENMQ_SOAK=1 $(PYTEST) -m stress

bench: $(VENV)/.tested  ## measure against kombu and other clients; prints tables, writes bench.html: an hour or more
	@.ci/servers
	@.ci/parts $(BIN)/python
	$(BIN)/python -m benchmarks --html bench.html --json bench.json

others: $(VENV)/.tested  ## kombu's and Celery's own tests, and programs on kombu, with greenmq in its place: half an hour
	@.ci/servers
	$(BIN)/python -m tests.others kombu kombu-amqp kombu-redis celery examples oslo nameko beat flower

clean:  ## take away what these targets made
	rm -rf docs/_build $(VENV) .venv-* .bench-venv .others bench.html bench.json build dist *.egg-info .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made once, and again when what they are made from has changed.
$(VENV)/.made: .ci/venv
	@.ci/venv '$(PYTHON)' '$(VENV)'
	@touch $@

$(VENV)/.installed: $(VENV)/.made setup.cfg setup.py
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.made setup.cfg setup.py
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed
