# `make` lists the targets. Everything is built from Go modules; nothing has to be installed by hand.

GO        ?= go
BIN       := bin
PEER      := $(BIN)/peer
TOOLS     := -modfile=proto/tools/go.mod
MEMBERS   ?= 3
SECONDS   ?= 600
TESTFLAGS ?=
BENCHARGS ?=
# What goes on for as long as it is let; tests/longrun gives each its part of SECONDS.
LONG_TESTS := TestProcesses|TestVirtualCluster|TestSimulation|TestSoak|TestKillNine|TestSameAnswersAsEtcd|TestSameUsersAsEtcd|TestLog|TestKilledMember|TestDay|TestKillAtEveryStep
LONG_PACKAGES := $(addprefix ./tests/,linearizability simulation soak e2e differential crash day e2e/steps)

.DEFAULT_GOAL := help
.PHONY: help build local test test-long fuzz prove bench proto lint cover peer clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/upkeep and bin/upkeepctl
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/upkeep ./cmd/upkeep
	$(GO) build -o $(BIN)/upkeepctl ./cmd/upkeepctl

local: build ## run a cluster of MEMBERS=3 on this machine, in the foreground
	$(BIN)/upkeep local --members $(MEMBERS)

test: build peer ## all tests that a change must pass, with the race detector
	$(GO) vet ./...
	$(GO) test -race -timeout 9m $(TESTFLAGS) ./...

# One after the other, since their parts of the time add up to SECONDS; built before, so that building is no part of it.
test-long: build peer ## the random tests for SECONDS=600 in all
	$(GO) test -race -count=1 -run '^$$' $(LONG_PACKAGES)
	UPKEEP_TEST_SECONDS=$(SECONDS) $(GO) test -race -count=1 -p 1 -timeout $$(( $(SECONDS) + 600 ))s -v \
		-run '^($(LONG_TESTS))$$' $(TESTFLAGS) $(LONG_PACKAGES)

# Each fuzz target gets its part of SECONDS. What fails is kept under testdata/fuzz and from then on part of `make test`.
fuzz: ## feed garbage to every decoder for SECONDS=600 in all
	@targets=$$(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z]*' . | sed 's/func //'); \
	each=$$(( $(SECONDS) / $$(echo "$$targets" | wc -l) )); [ $$each -gt 0 ] || each=1; \
	for target in $$targets; do \
		echo "$$target, $$each s"; \
		$(GO) test -run '^$$' -fuzz "^$${target##*:}\$$" -fuzztime $${each}s $$(dirname $${target%%:*}) || exit 1; \
	done

prove: ## break the code on purpose, and show which test notices what
	$(GO) run ./tests/prove

bench: build peer ## compare with etcd, side by side on this machine (BENCHARGS="--help" lists the rows)
	$(GO) build -o $(BIN)/upkeep-bench ./tests/bench
	$(BIN)/upkeep-bench --upkeep $(BIN)/upkeep --etcd $(PEER)/etcd $(BENCHARGS)

proto: ## generate the code of proto/ anew
	$(GO) tool $(TOOLS) buf generate . --config proto/buf.yaml --template proto/buf.gen.yaml

lint: ## gofmt, vet and staticcheck
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	$(GO) tool $(TOOLS) staticcheck ./...

cover: build peer ## test coverage of our own packages, as bin/cover.html
	$(GO) test -timeout 15m -coverpkg=./... -coverprofile=$(BIN)/cover.out ./...
	$(GO) tool cover -html=$(BIN)/cover.out -o $(BIN)/cover.html

# etcd itself, as the peer that tests and benchmarks compare with.
peer: $(PEER)/etcd $(PEER)/etcdctl $(PEER)/etcdutl $(PEER)/etcd-3.5 $(PEER)/etcd-3.6 $(PEER)/versitygw ## build etcd's programs and an S3 server into bin/peer

$(PEER)/etcd: tests/compat/go.mod
	cd tests/compat && $(GO) build -o ../../$@ go.etcd.io/etcd/server/v3
$(PEER)/etcdctl: tests/compat/go.mod
	cd tests/compat && $(GO) build -o ../../$@ go.etcd.io/etcd/etcdctl/v3
$(PEER)/etcdutl: tests/compat/go.mod
	cd tests/compat && $(GO) build -o ../../$@ go.etcd.io/etcd/etcdutl/v3
# Older servers, whose data directories are adopted.
$(PEER)/etcd-3.5: tests/compat35/go.mod
	cd tests/compat35 && $(GO) build -o ../../$@ go.etcd.io/etcd/server/v3
$(PEER)/etcd-3.6: tests/compat36/go.mod
	cd tests/compat36 && $(GO) build -o ../../$@ go.etcd.io/etcd/server/v3
# A server that speaks S3, to test backups in buckets against.
$(PEER)/versitygw: tests/s3/go.mod
	cd tests/s3 && $(GO) build -o ../../$@ github.com/versity/versitygw/cmd/versitygw

clean: ## remove what was built
	rm -rf $(BIN)
