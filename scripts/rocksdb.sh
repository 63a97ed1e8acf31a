#!/usr/bin/env bash
# Builds RocksDB once, as a static archive in a cache folder outside the checkout, and prints that folder.
#
# Why: the `rocksdb` crate compiles 343 C++ files in every profile and every target folder (about 25 minutes each time
# on two cores). One archive serves dev, release, tests and coverage. Cargo takes it through two variables:
#
#     export ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR="$(scripts/rocksdb.sh)"       # or: eval "$(make -s env)"
#
# The sources are those that cargo downloads for crate `librocksdb-sys` (version from Cargo.lock), and the flags are
# those of its build.rs with features lz4 and zstd. LZ4 and Zstandard themselves are not in the archive: the crates
# `lz4-sys` and `zstd-sys` bring them. An interrupted build goes on where it stopped.
#
# Usage: scripts/rocksdb.sh            build if needed; the folder is the only thing on stdout
#        scripts/rocksdb.sh --ready    exit 0 if no compilation would be needed, 1 otherwise; builds nothing
#
# Environment:
#   CODA_CACHE             cache root (default: ${XDG_CACHE_HOME:-~/.cache}/coda)
#   CODA_ROCKSDB_ARCHIVE   a ready librocksdb.a or librocksdb.a.xz to copy instead of compiling
#   CODA_ROCKSDB_CXXFLAGS  further compiler flags (a different archive: they are part of the folder's name)
#   CODA_ROCKSDB_JOBS      parallel compilers (default: number of cores)
#   CODA_ROCKSDB_ONLY      debugging: compile only this many files, spread over the list, estimate the rest, and stop
#   CXX                    compiler (default: clang++ if there is one, it needs half the time; otherwise g++)
set -euo pipefail
export LC_ALL=C

say() { printf 'rocksdb: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# One compilation, called by xargs below: source file relative to the crate, object named after its path.
if [[ ${1:-} == --compile ]]; then
    source=$2
    object=$OBJECTS/${source//\//__}.o
    # Archive members of the same base name would be ambiguous, so the path is part of the name.
    object=${object/rocksdb__/}
    if [[ ! -s $object ]]; then
        cd "$CRATE"
        # shellcheck disable=SC2086  # FLAGS is a list of words
        "$CXX" $FLAGS -c "$source" -o "$object.tmp" 2>"$object.log" || {
            printf '\nrocksdb: error: %s does not compile with %s:\n' "$source" "$CXX" >&2
            head -n 40 "$object.log" >&2
            exit 255 # tells xargs to stop
        }
        rm -f "$object.log"
        mv "$object.tmp" "$object"
    fi
    count=$(find "$OBJECTS" -name '*.o' | wc -l)
    seconds=$(($(date +%s) - STARTED))
    if [[ -t 2 ]]; then
        printf '\r\033[Krocksdb: %3d/%d  %dm%02ds  %s' "$count" "$TOTAL" $((seconds / 60)) $((seconds % 60)) "$source" >&2
    elif ((count % 20 == 0 || count == TOTAL)); then
        printf 'rocksdb: %3d/%d compiled, %dm%02ds\n' "$count" "$TOTAL" $((seconds / 60)) $((seconds % 60)) >&2
    fi
    exit 0
fi

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ $(uname -s) == Linux ]] || die "this script knows Linux only; elsewhere leave ROCKSDB_LIB_DIR unset and let cargo build RocksDB"

locked_version() {
    awk -v want="$1" '$1 == "name" { name = $3 } $1 == "version" && name == "\"" want "\"" { gsub(/"/, "", $3); print $3; exit }' \
        "$checkout/Cargo.lock"
}
version=$(locked_version librocksdb-sys)
[[ -n $version ]] || die "no librocksdb-sys in $checkout/Cargo.lock; run 'cargo generate-lockfile' first"

# Flags that shape the code. The compiler itself is not part of the name: g++ and clang++ share one ABI here.
shape=(-std=c++20 -O3 -fPIC -ffunction-sections -fdata-sections
    -DNDEBUG=1 -DLZ4=1 -DZSTD=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX
    -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
    -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT -include cstdint)
machine=$(uname -m)
case $machine in
    # Hardware CRC32C, on every x86 server since 2010; without it checksums dominate a write.
    x86_64) shape+=(-m64 -msse2 -msse4.1 -msse4.2 -mpclmul) ;;
    aarch64) shape+=(-march=armv8-a+crc+aes+crypto) ;;
esac
read -ra extra <<<"${CODA_ROCKSDB_CXXFLAGS:-}"
shape+=("${extra[@]}")

cache=${CODA_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or CODA_CACHE}/.cache}/coda}
hash=$(printf '%s\n' "$machine" "${shape[@]}" | sha256sum | cut -c1-12)
folder=$cache/rocksdb-$version-$hash
archive=$folder/librocksdb.a

if [[ -s $archive && -z ${CODA_ROCKSDB_ONLY:-} ]]; then
    [[ ${1:-} == --ready ]] || printf '%s\n' "$folder"
    exit 0
fi

# A seed is an archive that somebody compiled before: named by the developer, or lying next to the checkout.
seed=${CODA_ROCKSDB_ARCHIVE:-}
neighbour=$checkout/../shared/cache/rocksdb-${version#*+}/librocksdb.a.xz
if [[ -z $seed && -f $neighbour && $machine == x86_64 && ${#extra[@]} -eq 0 ]]; then
    seed=$neighbour
fi
[[ -z $seed || -f $seed ]] || die "CODA_ROCKSDB_ARCHIVE names no file: $seed"

if [[ ${1:-} == --ready ]]; then
    [[ -n $seed ]]
    exit
elif [[ $# -gt 0 ]]; then
    die "unknown argument $1; see the head of $0"
fi

mkdir -p "$folder"
# Two builds at once would fight for the cores; the second one waits, then finds the archive.
exec 9>"$folder/.lock"
if ! flock -n 9; then
    say "another build is at work in $folder, waiting for it"
    flock 9
fi
if [[ -s $archive && -z ${CODA_ROCKSDB_ONLY:-} ]]; then
    printf '%s\n' "$folder"
    exit 0
fi

# Puts a finished archive in place: a half-written file never has the final name.
publish() {
    local members
    members=$(ar t "$1" 2>/dev/null | wc -l) || true
    ((members >= 300)) || die "$2 is not a RocksDB archive: it has $members object files, more than 300 were expected"
    printf '%s\n' "$2" >"$folder/ORIGIN"
    mv "$1" "$archive"
    say "ready: $archive ($(du -h "$archive" | cut -f1), from $2)"
}

if [[ -n $seed && -z ${CODA_ROCKSDB_ONLY:-} ]]; then
    say "copying the archive from $seed"
    trap 'rm -f "$archive.tmp"' EXIT
    case $seed in
        *.xz) # xz is not part of the smallest Debian; Python always brings the same code
            if command -v xz >/dev/null; then
                xz -dc "$seed" >"$archive.tmp"
            else
                python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$seed" >"$archive.tmp"
            fi ;;
        *) cp "$seed" "$archive.tmp" ;;
    esac
    publish "$archive.tmp" "$seed"
    printf '%s\n' "$folder"
    exit 0
fi

works() { command -v "$1" >/dev/null && printf '#include <compare>\nint main() {}\n' | "$1" -std=c++20 -x c++ - -o /dev/null 2>/dev/null; }
if [[ -z ${CXX:-} ]]; then
    for CXX in clang++ clang++-19 clang++-16 clang++-15 clang++-14 g++ ''; do works "$CXX" && break; done
fi
[[ -n $CXX ]] && works "$CXX" || die "no compiler for C++20 found (CXX='$CXX'); on Debian: apt-get install g++ clang-14"

say "asking cargo for the sources of librocksdb-sys $version"
sources=$(cd "$checkout" && cargo metadata --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" | python3 -c '
import json, os, sys
packages = {(p["name"], p["version"]): os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"]}
names = zip(sys.argv[1::2], sys.argv[2::2])
print("\n".join(packages[name] for name in names))
' librocksdb-sys "$version" lz4-sys "$(locked_version lz4-sys)" zstd-sys "$(locked_version zstd-sys)") ||
    die "cargo could not name the sources; is 'cargo fetch' possible?"
{ read -r CRATE; read -r lz4; read -r zstd; } <<<"$sources"
[[ -f $CRATE/rocksdb_lib_sources.txt ]] || die "$CRATE has no rocksdb_lib_sources.txt: the crate has changed, adapt $0"

# build_version.cc comes generated with the crate, outside RocksDB's own tree.
mapfile -t files < <(sed 's/[[:space:]]*$//' "$CRATE/rocksdb_lib_sources.txt" | grep -vx -e '' -e util/build_version.cc | sed 's|^|rocksdb/|')
files+=(build_version.cc)

TOTAL=${#files[@]}
STARTED=$(date +%s)
OBJECTS=$folder/objects
FLAGS="${shape[*]} -w -I rocksdb/include -I rocksdb -I rocksdb/third-party/gtest-1.8.1/fused-src -I $lz4/liblz4/lib -I $zstd/zstd/lib -I ."
jobs=${CODA_ROCKSDB_JOBS:-$(nproc)}

all=$TOTAL
if [[ -n ${CODA_ROCKSDB_ONLY:-} ]]; then
    OBJECTS=$(mktemp -d)
    trap 'rm -rf "$OBJECTS"' EXIT
    TOTAL=$((CODA_ROCKSDB_ONLY < all ? CODA_ROCKSDB_ONLY : all))
    chosen=()
    for ((i = 0; i < TOTAL; i++)); do chosen+=("${files[i * all / TOTAL]}"); done
    files=("${chosen[@]}")
fi
mkdir -p "$OBJECTS"
# A half-written object of an interrupted or changed compilation must not be taken for a finished one.
rm -f "$OBJECTS"/*.tmp
export OBJECTS CRATE CXX FLAGS TOTAL STARTED

say "compiling $TOTAL of $all files with $CXX, $jobs at a time (all of them: 12 to 25 minutes on two cores, once per machine)"
printf '%s\0' "${files[@]}" | xargs -0 -n1 -P "$jobs" "$checkout/scripts/rocksdb.sh" --compile || die "the build failed; nothing was published"
[[ ! -t 2 ]] || printf '\n' >&2
seconds=$(($(date +%s) - STARTED))

if [[ -n ${CODA_ROCKSDB_ONLY:-} ]]; then
    say "$TOTAL files took ${seconds} s; all $all would take about $((seconds * all / TOTAL / 60)) min. No archive was written (CODA_ROCKSDB_ONLY)"
    exit 0
fi

rm -f "$archive.tmp"
(cd "$OBJECTS" && printf '%s\0' "${files[@]}" | sed -z 's|^rocksdb/||; s|/|__|g; s|$|.o|' | xargs -0 ar crs "$archive.tmp")
publish "$archive.tmp" "$CXX, $(date -u +%F), $((seconds / 60)) min"
rm -rf "$OBJECTS"
printf '%s\n' "$folder"
