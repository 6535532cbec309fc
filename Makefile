# Two commands matter: `make run` and `make test`. See README.md.

GO      ?= go
VERSION := $(shell cat VERSION)
LDFLAGS := -s -w -X wherry.example/wherry/internal/version.Version=$(VERSION)
IMAGE   := build/core-amd64

export CGO_ENABLED ?= 0
# As the image's programs are built: what tests and image have in common is compiled once, which
# with an empty cache is minutes.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)
# Ordinary users do not have the programs that the tests judge with on their PATH.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: run stop test test-power unit vm-tests build image bench generate clean setup-run setup-test host

# A machine named demo with a small web server in it; it stays up.
run: setup-run build
	tools/run.sh

# After `make clean` the machine may still run: then the tool is built once more.
stop:
	@if [ ! -x build/wherry ] && [ -d "$${XDG_STATE_HOME:-$$HOME/.local/state}/wherry/vm/demo" ]; then $(MAKE) -s host; fi
	@if [ -x build/wherry ]; then build/wherry vm stop demo; else echo "nothing was built, so nothing runs"; fi

# Everything that must pass: house rules and unit tests, then the VM tests.
test: setup-test unit vm-tests

# What has C in it does not even compile without cgo: the shim, and the library that packs a root.
CGO_PACKAGES := ./cmd/wherry-shim/... ./internal/libzstd/... ./internal/machine/rebuild/... ./internal/machine/shim/...

WITHOUT_CGO = $$($(GO) list ./... | grep -vxF "$$(CGO_ENABLED=1 $(GO) list $(CGO_PACKAGES))")

unit:
	$(GO) vet $(WITHOUT_CGO)
	CGO_ENABLED=1 $(GO) vet $(CGO_PACKAGES)
	$(GO) test -timeout 10m $$(echo "$(WITHOUT_CGO)" | grep -v /e2e)
	CGO_ENABLED=1 $(GO) test -timeout 10m $(CGO_PACKAGES)

# These take the longest. They come first, so that none of them is alone in the end.
LONG_VM_TESTS := ./e2e/update ./e2e/power ./e2e/containers ./e2e/slots ./e2e/disk ./e2e/chaos

# Two at a time: a VM of a test keeps one processor busy, and waits often enough.
vm-tests: build
	@if $(GO) list ./e2e/... 2>/dev/null | grep -q .; then \
		$(GO) test -timeout 60m -p 2 $(LONG_VM_TESTS) ./e2e/...; fi

# As many power cuts as it takes to meet the rare ones; `make test` has a sample.
# WHERRY_POWER_FIRST=N goes on at the N-th, and so divides them among several runs.
test-power: setup-test build
	WHERRY_POWER_CUTS=$${WHERRY_POWER_CUTS:-120} $(GO) test -v -timeout 24h -run TestPower/cuts -artifacts -outputdir $(CURDIR)/build ./e2e/power

# The host binary and the OS image.
build: host image

host:
	$(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o build/wherry ./cmd/wherry

image: host
	build/wherry build

bench: setup-test build
	$(GO) run ./bench

generate:
	tools/generate.sh

# Removes what was built here; caches outside of the checkout stay.
clean:
	rm -rf build

setup-run:
	@tools/setup.sh run

setup-test:
	@tools/setup.sh test
