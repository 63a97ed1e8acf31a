#!/usr/bin/env bash
# Fuzzes each target for this many seconds (60), on the stable toolchain: fuzz/run.sh [SECONDS] [TARGET...]
# `make fuzz` does it with the RocksDB archive at hand. The targets are in tests/fuzz, which replays what is kept here on
# every change. New inputs are kept in fuzz/work, which is not committed; inputs that fail in fuzz/artifacts. To see one
# again:
#   fuzz/run.sh 0 TARGET fuzz/artifacts/TARGET/crash-...
# The input of a fault that was mended becomes a line of hex in fuzz/corpus/TARGET.hex, below a comment that says what it was.
# To add the smallest inputs that together reach as much as all in fuzz/work do, of those that have at most so many bytes:
#   KEEP=64 fuzz/run.sh 0 TARGET
set -euo pipefail
cd "$(dirname "$0")"

seconds="${1:-60}"
shift $(( $# > 0 ? 1 : 0 ))
targets=()
inputs=()
for argument in "$@"; do
	if [[ -e "../$argument" ]]; then inputs+=("$(realpath "../$argument")"); else targets+=("$argument"); fi
done

# What cargo-fuzz passes, allowed on stable by RUSTC_BOOTSTRAP. A target folder of its own: nothing else is built so.
host="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Zsanitizer=address"
target_dir="${FUZZ_TARGET_DIR:-target}"
unset CARGO_TARGET_DIR
cargo build --release --quiet --target "$host" --target-dir "$target_dir" --bin fuzz --bin seeds
bin="$target_dir/$host/release"
# Leaks are not looked for: LeakSanitizer cannot attach everywhere. Memory and time per input are bounded.
export ASAN_OPTIONS="detect_leaks=0 ${ASAN_OPTIONS:-}"

all="$("$bin/seeds" work)"
(( ${#targets[@]} )) || mapfile -t targets <<<"$all"
for target in "${targets[@]}"; do
	export CODA_FUZZ_TARGET="$target"
	mkdir -p "work/$target" "artifacts/$target"
	if (( ${#inputs[@]} )); then
		"$bin/fuzz" "${inputs[@]}"
		continue
	fi
	if [[ -n "${KEEP:-}" ]]; then
		kept="$(mktemp -d)"
		"$bin/fuzz" -merge=1 -max_len="$KEEP" "$kept" "work/$target" 2>&1 | tail -n 1
		for input in "$kept"/*; do od -An -v -tx1 "$input" | tr -d ' \n'; echo; done | sort -u >>"corpus/$target.hex"
		rm -r "$kept"
		continue
	fi
	echo "fuzzing $target for $seconds s" >&2
	"$bin/fuzz" "work/$target" \
		-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
		-artifact_prefix="artifacts/$target/" -verbosity=1 2>&1 | tail -n 12
done
