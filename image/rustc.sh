#!/bin/sh
# Called by cargo in rustc's place (RUSTC_WRAPPER). Cargo hashes the absolute folder of a crate that
# lies outside of the workspace into its symbols, and their order in the image follows: so crates of
# this repository are told apart by name and version alone, wherever the checkout lies.
set -eu
rustc=$1
shift
for argument in "$@"; do
    shift
    case "$argument" in
        metadata=*)
            case "${CARGO_MANIFEST_DIR:-}/" in
                "$TOANI_ROOT"/*) argument="metadata=$CARGO_PKG_NAME-$CARGO_PKG_VERSION" ;;
            esac
            ;;
    esac
    set -- "$@" "$argument"
done
exec "$rustc" "$@"
