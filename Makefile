.PHONY: help setup fmt check unit test bench demo
help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'
setup:  ## install system packages, and .venv with the test tools
	script/setup --tests
fmt:  ## format the code
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .
check:  ## style, types, floors
	.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/lint-imports
unit:  ## the fast tests
	script/test unit
test:  ## everything
	script/test
bench:  ## measure beside whichever peers are installed
	script/bench
demo:  ## the story: registry, engine, pull, run
	script/demo
