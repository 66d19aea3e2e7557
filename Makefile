# What one does in this checkout. Each target is one command, which also runs by itself.
PORT ?= 8000

.DEFAULT_GOAL := help
.PHONY: help demo demo-clean test bench bench-start bench-peers bench-load soak fuzz tools image build lint

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## bring up a JupyterHub with sandboxed servers (CHECK=1: act as a user, then end; PORT=8000)
	@tools/python demo/demo.py --port $(PORT) $(if $(filter 1 yes true,$(CHECK)),--check)

demo-clean: ## remove the homes and images that the demo keeps
	@tools/python demo/demo.py --clean

test: ## run every test
	@tests/run

bench: ## measure every runtime on this machine, with tables and pictures (ARGUMENTS=--quick)
	@tests/bench $(ARGUMENTS)

bench-start: ## measure how long a server takes to start, step by step
	@tests/bench-start

bench-peers: ## measure starts beside a bare process, Docker, and what else is there
	@tests/bench-peers

bench-load: ## measure the launcher alone with 10,000 sandboxes, and its pure parts (SANDBOXES=10000)
	@tests/bench-load

soak: ## start and stop servers for a long time, and watch for leaks
	@tests/soak

fuzz: ## try random requests and plans (SECONDS_EACH=60; needs nightly and cargo-fuzz)
	@tests/fuzz

tools: ## get containerd, runc, JupyterHub and the proxy into target/tools
	@tools/get

image: tools ## build the single-user image
	@images/singleuser/build

build: ## build the launcher and the init
	@tools/build

lint: ## check style and common mistakes
	@tools/lint
