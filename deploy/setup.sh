#!/usr/bin/env bash
# Installs what the lock files in requirements/ say.
#   deploy/setup.sh [run|dev]     makes .venv, for runs or for tests as well; does nothing where it has that already
# An image is built of the same steps, a layer each (HARDWARE=cpu|gpu says for what):
#   deploy/setup.sh system        Debian packages, as root
#   deploy/setup.sh wheels DIR    everything to install, as wheels in this folder
#   deploy/setup.sh torch|packages|paceline    what changes least first
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-run}
torch_cpu_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }
if [ -n "${HARDWARE:-}" ]; then hardware=$HARDWARE; elif has_gpu; then hardware=gpu; else hardware=cpu; fi
locks=(requirements/$hardware.txt)
if [ "$kind" = dev ]; then locks+=(requirements/dev.txt); fi
# A machine's byte code is compiled when a module is first imported: most of what is installed never is. In an image
# nobody may write it then, so it is compiled at once.
case $kind in
  run | dev) get=(install --no-compile) ;;
  wheels) get=(wheel --wheel-dir "${2:?names the folder for the wheels}") ;;
  *) get=(install) ;;
esac

say() { printf '%s\n' "$*" >&2; }

find_python() {
  for python in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      echo "$python"; return
    fi
  done
  say "setup: needs Python 3.11 to 3.13 with the venv module; install it, or name it with PYTHON=/path/to/python make ..."
  exit 1
}

make_venv() {
  [ -x .venv/bin/python ] && return
  python=$(find_python)
  say "setup: making .venv with $("$python" --version)"
  "$python" -m venv .venv
}

get() { .venv/bin/python -m pip "${get[@]}" --disable-pip-version-check --quiet --no-deps "$@"; }

get_system() {
  apt-get update
  # shellcheck disable=SC2046
  apt-get install --yes --no-install-recommends $(grep -v '^#' requirements/debian.txt)
  rm -rf /var/lib/apt/lists/*
}

get_torch() {
  mapfile -t torch < <(grep -E '^(torch[a-z]*|triton|nvidia-[a-z0-9-]+)==' "requirements/$hardware.txt")
  say "setup: ${get[0]} ${torch[-1]} (1 of 3)"
  if [ "$hardware" = gpu ]; then get "${torch[@]}"; return; fi
  log=$(mktemp)
  if ! get "${torch[@]}" 2>"$log"; then
    say "setup: pip's indexes lack the CPU build of torch; taking it from PyTorch's own"
    get --index-url "$torch_cpu_index" "${torch[@]}" || { cat "$log" >&2; rm -f "$log"; exit 1; }
  fi
  rm -f "$log"
}

get_packages() {
  say "setup: ${get[0]} the locked packages for $hardware (2 of 3; about 4 GB on disk, a minute or two)"
  args=(); for lock in "${locks[@]}"; do args+=(-r "$lock"); done
  get "${args[@]}"
}

get_paceline() {
  say "setup: installing paceline itself (3 of 3)"
  get --no-build-isolation -e .
}

case $kind in
  run | dev)
    # The dev environment holds everything that a run needs.
    stamp=.venv/.installed-$kind
    wanted=$(cat "${locks[@]}" pyproject.toml | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0
    make_venv; get_torch; get_packages; get_paceline
    echo "$wanted" > "$stamp"
    # A dev environment serves runs as well: do not install again for them.
    if [ "$kind" = dev ]; then cat "requirements/$hardware.txt" pyproject.toml | sha256sum > .venv/.installed-run; fi ;;
  system) get_system ;;
  wheels) make_venv; get_torch; PIP_FIND_LINKS=$2 get_packages ;;
  torch) make_venv; get_torch ;;
  packages) make_venv; get_packages ;;
  paceline) make_venv; get_paceline ;;
  *) say "setup: no step '$kind'; see the top of deploy/setup.sh"; exit 2 ;;
esac
