#!/usr/bin/env bash
# Fuzzes each target for this many seconds (60), on the stable toolchain: fuzz/run.sh [SECONDS] [TARGET...]
# New inputs are kept in fuzz/corpus, inputs that fail in fuzz/artifacts. To see one again:
#   fuzz/run.sh 0 TARGET fuzz/artifacts/TARGET/crash-...
set -euo pipefail
cd "$(dirname "$0")"

seconds="${1:-60}"
shift $(( $# > 0 ? 1 : 0 ))
targets=()
inputs=()
for argument in "$@"; do
	if [[ -e "../$argument" ]]; then inputs+=("$(realpath "../$argument")"); else targets+=("$argument"); fi
done
(( ${#targets[@]} )) || targets=(frame request command)

# What cargo-fuzz passes, allowed on stable by RUSTC_BOOTSTRAP. A target folder of its own: nothing else is built so.
host="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Zsanitizer=address"
unset CARGO_TARGET_DIR
cargo build --release --quiet --target "$host" --target-dir target "${targets[@]/#/--bin=}"

for target in "${targets[@]}"; do
	bin="target/$host/release/$target"
	mkdir -p "corpus/$target" "artifacts/$target"
	if (( ${#inputs[@]} )); then
		"$bin" "${inputs[@]}"
		continue
	fi
	echo "fuzzing $target for $seconds s" >&2
	# Leaks are not looked for: LeakSanitizer cannot attach everywhere. Memory and time per input are bounded.
	ASAN_OPTIONS="detect_leaks=0 ${ASAN_OPTIONS:-}" "$bin" "corpus/$target" \
		-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
		-artifact_prefix="artifacts/$target/" -verbosity=1 2>&1 | tail -n 12
done
