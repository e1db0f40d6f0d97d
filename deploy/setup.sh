#!/usr/bin/env bash
# Makes .venv and installs one of the lock files into it: `deploy/setup.sh [run|dev]`.
# Does nothing where the environment already has what the lock files say.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-run}
torch_cpu_index=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}

if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then hardware=gpu; else hardware=cpu; fi
locks=(requirements/$hardware.txt)
[ "$kind" = dev ] && locks+=(requirements/dev.txt)
# The dev environment holds everything that a run needs.
stamp=.venv/.installed-$kind
wanted=$(cat "${locks[@]}" pyproject.toml | sha256sum)
[ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && exit 0

find_python() {
  for python in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      echo "$python"; return
    fi
  done
  echo "setup: needs Python 3.11 to 3.13 with the venv module; install it, or name it with PYTHON=/path/to/python make ..." >&2
  exit 1
}

say() { printf '%s\n' "$*" >&2; }

if [ ! -x .venv/bin/python ]; then
  python=$(find_python)
  say "setup: making .venv with $("$python" --version)"
  "$python" -m venv .venv
fi
# Byte code is compiled when a module is first imported: most of what is installed never is.
install() { .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-compile "$@"; }

if [ "$hardware" = cpu ]; then
  torch=$(grep '^torch==' requirements/cpu.txt)
  say "setup: installing $torch (1 of 3)"
  if ! install "$torch" 2>/tmp/paceline-setup.$$; then
    say "setup: pip's indexes lack the CPU build of torch; taking it from PyTorch's own"
    install --index-url "$torch_cpu_index" "$torch" || { cat /tmp/paceline-setup.$$ >&2; rm -f /tmp/paceline-setup.$$; exit 1; }
  fi
  rm -f /tmp/paceline-setup.$$
fi
say "setup: installing the locked packages for $hardware (2 of 3; about 4 GB on disk, a minute or two)"
args=(); for lock in "${locks[@]}"; do args+=(-r "$lock"); done
install "${args[@]}"
say "setup: installing paceline itself (3 of 3)"
install --no-build-isolation -e .
echo "$wanted" > "$stamp"
# A dev environment serves runs as well: do not install again for them.
if [ "$kind" = dev ]; then cat requirements/$hardware.txt pyproject.toml | sha256sum > .venv/.installed-run; fi
