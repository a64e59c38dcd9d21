.PHONY: up build test quick drill bench format

# Everything in one process on private services under .scoreline/, with a game that plays. Ctrl-C stops it.
up:
	@[ -n "$$DATABASE_URL" ] && [ -n "$$REDIS_URL" ] || scripts/install-services
	@echo "Building; the first time this takes some minutes."
	@cargo build --release --bin scoreline
	@exec $${CARGO_TARGET_DIR:-target}/release/scoreline up

build:
	cargo build --release

# Format, lint and every test, on services of its own.
test:
	@scripts/test

# The short tests, within a minute once they are built: for the change that is being made.
quick:
	@scripts/test -P quick

# What is too long for every change (under an hour): ten seeds of chaos, a paired benchmark, ten million events.
drill:
	@scripts/drill

bench:
	@scripts/install-services
	@cargo build --release --quiet
	@exec $${CARGO_TARGET_DIR:-target}/release/scoreline bench

format:
	cargo fmt
