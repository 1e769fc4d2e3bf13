#!/bin/sh
# Called by cargo in rustc's place (RUSTC_WRAPPER). Cargo hashes the absolute folder of a crate that
# lies outside of the workspace into the symbols of that crate and of all that need it, which is
# whatever wipes; and the order of symbols in the image follows. So crates are told apart by name
# and version alone, wherever the checkout lies: none is linked twice in one version.
set -eu
rustc=$1
shift
for argument in "$@"; do
    shift
    case "$argument" in
        metadata=*) argument="metadata=$CARGO_PKG_NAME-$CARGO_PKG_VERSION" ;;
    esac
    set -- "$@" "$argument"
done
exec "$rustc" "$@"
