#!/usr/bin/env bash
# Sets up CBQ on a bare Debian 12 (or alike) and builds it. Every step is skipped where it is already done.
#
#   ./setup.sh                 Debian packages, text of the embedded model, build of the programs (preset cpu)
#   ./setup.sh run [OPTION..]  ... then experiments/run_ablation with the options given
#   ./setup.sh test            ... with the tests, then runs them
#   ./setup.sh packages        the Debian packages only
#
# Environment: CBQ_WERROR=ON makes warnings errors; CBQ_TEST_DATA=<folder> holds the data of further tests (without it
# they are reported as skipped).
set -euo pipefail
cd "$(dirname "$0")"

packages=(
  g++ cmake ninja-build ccache pkg-config python3 git ca-certificates
  libopenblas-openmp-dev   # BLAS; the OpenMP build, which shares our threads
  libhdf5-dev              # token files and cached activations
  libsentencepiece-dev sentencepiece
  libpcre2-dev libutf8proc-dev  # byte-level tokenizers: split patterns, normalization
  zlib1g-dev               # .gz data sets
  nlohmann-json3-dev libcli11-dev libfmt-dev libgtest-dev
  clang-format             # CI's formatter check
  wordnet-base             # text of the embedded model (the other half: prepare_text below)
)

say() { printf '== %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else echo "setup.sh: '$*' needs root, and there is no sudo: run './setup.sh packages' as root once" >&2; exit 1
  fi
}

install_packages() {
  local missing=()
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} = 0 ]; then say "Debian packages: all ${#packages[@]} are there"; return; fi
  say "Debian packages: installing ${missing[*]}"
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# Installing dict-gcide would bring a dictionary server along; its one data file is all that is wanted.
prepare_text() {
  local root=/
  if [ ! -f /usr/share/dictd/gcide.dict.dz ]; then
    root=$PWD/build/packages
    if [ ! -f "$root/usr/share/dictd/gcide.dict.dz" ]; then
      say "text: fetching the Debian package dict-gcide (unpacked in build/packages, not installed)"
      mkdir -p "$root"
      [ -n "$(apt-cache policy dict-gcide)" ] || as_root apt-get update -q
      (cd "$root" && apt-get download -q dict-gcide && dpkg-deb -x dict-gcide_*.deb .)
    fi
  fi
  if ! (cd build/text 2>/dev/null && sha256sum --status -c SHA256SUMS); then
    say "text of the embedded model: build/text"
    tools/prepare_text.py --gcide "$root/usr/share/dictd/gcide.dict.dz" build/text
  fi
  cmp -s build/text/SHA256SUMS models/embedded/text.sha256 ||
    say "WARNING: this text differs from the one the embedded model was trained on (models/embedded/text.sha256):" \
        "are the packages of another version? Values will differ a little."
}

# build [TARGET..]: without targets everything, tests included
build() {
  say "build: build/cpu"
  cmake --preset cpu -DCBQ_WERROR="${CBQ_WERROR:-OFF}" -DCBQ_TEST_DATA="${CBQ_TEST_DATA:-}"
  cmake --build --preset cpu -j "$(nproc)" ${1:+--target "$@"}
}

command=${1:-build}
case $command in build | run | test | packages) shift $(($# > 0)) ;;
  -h | --help) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit ;;
  *) echo "setup.sh: unknown command '$command'; known: build, run, test, packages, --help" >&2; exit 2 ;;
esac
install_packages
[ "$command" = packages ] && exit
prepare_text
programs=(cbq run_ablation bench check_reference)
[ "$command" = test ] && programs=()
build "${programs[@]}"
case $command in
  build) say "done: build/cpu/bin/{cbq,run_ablation,bench,check_reference}" ;;
  run) build/cpu/bin/run_ablation "$@" ;;
  # Several tests at once: idle threads of one must not spin on the other's core.
  test) OMP_WAIT_POLICY=passive ctest --preset cpu -j "$(nproc)" "$@" ;;
esac
