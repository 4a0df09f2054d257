# Short names for the commands of this repository; `just` lists them.

[private]
default:
    @just --list

# Starts the server on the embedded store.
run *arguments:
    cargo run --release -- {{ arguments }}

# Runs the tests that every change has to pass.
test *arguments:
    tests/run {{ arguments }}

# Runs everything that a change has to pass: form, lints, documentation, licences, tests.
ci:
    .ci/run

# Formats the code, and shows what the lints find.
lint:
    cargo fmt --all
    cargo clippy --locked --workspace --all-targets -- -D warnings

# Opens the documentation of the crates.
doc:
    cargo doc --locked --workspace --no-deps --open

# Runs the tests in their long form, on the release binary.
long *arguments:
    tests/long {{ arguments }}

# Runs fault schedules; `just faults list` names them.
faults *arguments:
    tests/faults {{ arguments }}

# Measures the server beside its peers.
bench *arguments:
    tests/bench {{ arguments }}

# Runs the tests that need a browser, another language or a foreign validator.
ecosystem *arguments:
    tests/ecosystem/run {{ arguments }}
