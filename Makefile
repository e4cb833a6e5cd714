# SPDX-License-Identifier: Apache-2.0
SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):/usr/sbin:/sbin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

prepare: ## Install Debian packages and the virtual environment that everything here needs
	@tools/prepare

demo: prepare ## Boot three hosts, roll kTLS out under load, switch it off, write a report
	@$(BIN)/ktls demo

test: prepare ## Everything but the long extras (vm-more), on real kernels too
	@echo 'test: what needs no VM, two parts at a time; each shows what it did when it is done'
	@$(MAKE) --no-print-directory -j2 -O check sanity images unit conformance orchestration dashboards docs
	@$(MAKE) --no-print-directory vm

check: prepare ## Linters and types, in seconds, without a VM
	@$(BIN)/ruff check . tools/sanity
	@$(BIN)/ruff format --check . tools/sanity
	@$(BIN)/mypy
	@$(BIN)/yamllint --strict .
	@shellcheck tools/prepare tools/compatibility agent/units/ktls-off control/ktls_control/templates/off_host.sh tests/molecule/run bench/run .ci/run tools/lock tools/release
	@ANSIBLE_CONFIG=ansible.cfg $(BIN)/ansible-lint --offline --profile production

collection: prepare ## Build the collection as it is published, into build/
	@$(BIN)/python -m tools.collection
.PHONY: collection

sanity: prepare ## Build the collection, install it, run ansible-test's sanity tests on it
	@tools/sanity

unit: prepare ## Pure tests
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/unit

dashboards: prepare ## Dashboards, rules and the page of metrics, with promtool
	@$(BIN)/pytest -q tests/dashboards

.PHONY: docs
docs: prepare ## The site in build/docs, with links and anchors checked; then the commands in the pages are run
	@$(BIN)/sphinx-build -q -E -a -W --keep-going -j 2 -c tools/site -b html docs build/docs
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/docs

conformance: prepare ## Independent clients, hostile ones too, against the sidecar on this machine; a short fuzzing run
	@$(BIN)/pytest -q tests/conformance tests/fuzz tests/soak

fuzz: prepare ## Fuzz the sidecar's request path for ten minutes (SECONDS=600; not part of test)
	@$(BIN)/python -m tests.fuzz.request --seconds $(or $(SECONDS),600)

soak: prepare ## Half an hour of load, link flaps and mode changes on a lab VM (MINUTES=30; not part of test)
	@$(BIN)/python -m tests.soak.soak --minutes $(or $(MINUTES),30)

orchestration: prepare ## Playbooks over many fake local hosts
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/orchestration

images: prepare ## The images of the lab, if they are not there yet
	@for image in debian13 debian12 debian13-backports; do $(BIN)/ktls lab build --image $$image || exit 1; done

# The longest first, so that nothing long is left alone at the end. Evidence, agent, metrics, pull and guards start from
# one deployed host, which the first of them makes (tests/vm/deployed.py).
VM_PARTS := vm-agent vm-levers vm-sidecar vm-evidence molecule-base vm-lab vm-metrics vm-pull vm-guards vm-rig vm-wire
# Those that take long and are for whoever changes what they test. vm-rest: tests that are marked `more`.
VM_MORE := vm-hw vm-nginx vm-service vm-undeploy vm-rest molecule

vm: vm-fleet ## Tests on lab VMs with real kernel TLS: the fleet alone, then the rest two at a time
	@echo 'vm: the rest, two parts at the same time; each shows what it did when it is done'
	@$(MAKE) --no-print-directory -j2 -O JOBS=1 $(VM_PARTS)

vm-nginx vm-service vm-undeploy vm-operator vm-witness molecule: image-bench
image-bench: prepare
	@$(BIN)/ktls lab build --image debian13-bench
.PHONY: image-bench

vm-fleet vm-levers vm-evidence vm-sidecar vm-agent vm-undeploy vm-lab vm-metrics vm-nginx vm-service vm-pull vm-guards vm-rig vm-wire vm-hw: prepare
	@$(BIN)/pytest -q --durations=5 tests/vm/$(@:vm-%=%)

vm-rest: prepare
	@$(BIN)/pytest -q -m more --durations=5 tests/vm

vm-operator: prepare ## A rollout over an nginx under load and back; phase hw with sentinel and a card that leaks (half an hour; not part of test)
	@$(BIN)/pytest -q -s tests/vm/operator

vm-gnutls: prepare ## GnuTLS with kernel TLS, on its own image (some 10 minutes the first time; not part of test)
	@$(BIN)/ktls lab build --image debian13-gnutls
	@$(BIN)/pytest -q -m gnutls tests/vm/gnutls

vm-witness: prepare ## nginx as a witness of the evidence, on the image of bench (not part of test)
	@$(BIN)/pytest -q -m nginx tests/vm/nginx

bench: prepare ## The sidecar against nginx, natively (needs nginx-light and wrk; some 8 minutes; not part of test)
	@bench/run

molecule: prepare ## Each role, and the upgrade from the release before, on lab hosts (JOBS=2 scenarios at a time; not part of test)
	@tests/molecule/run --jobs $(or $(JOBS),2)

molecule-base: prepare ## The scenarios that are part of test
	@tests/molecule/run --jobs $(or $(JOBS),2) ktls_host ktls_sidecar

vm-more: prepare ## Phase hw, datapaths nginx and service, undeploy, every role, the upgrade, on lab hosts (long; not part of test)
	@for part in $(VM_MORE); do $(MAKE) --no-print-directory $$part || exit 1; done

release: prepare ## The artefacts of a release in build/release (KEY=path signs them; docs/release.md)
	@tools/release $(if $(KEY),--sign "$(KEY)")

clean: ## Take running labs down, drop build output (the image cache stays)
	@if [ -x $(BIN)/ktls ]; then $(BIN)/ktls lab down --all; fi
	rm -rf build

.PHONY: help prepare demo test check sanity unit dashboards conformance fuzz soak orchestration images vm vm-fleet vm-levers vm-evidence vm-sidecar vm-agent vm-undeploy vm-lab vm-metrics vm-pull vm-guards vm-rig vm-wire vm-hw vm-rest vm-operator vm-gnutls vm-nginx vm-service vm-witness bench molecule molecule-base vm-more release clean
