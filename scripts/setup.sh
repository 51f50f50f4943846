# Sourced by the other scripts: sets $root/.venv up on first use, and again when its dependencies have changed; compiles
# the native kernels when their sources have. They are optional: everything works without a C++ compiler.
# SEQMEM_VENV=DIR chooses another directory, PYTHON=/path/to/python3.12 the Python (3.11 to 3.13).
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venv=${SEQMEM_VENV:-$root/.venv}
# Without cached bytecode every start would compile torch's modules again, which takes seconds.
unset PYTHONDONTWRITEBYTECODE

setup() {
  kernels=$(cat "$root"/src/seqmem/kernels/*.cpp "$root/src/seqmem/kernels/build.py" | cksum | tr ' ' -)
  dependencies=$(cat "$root/pyproject.toml" "$root/constraints.txt" "$root/scripts/hatch_build.py" | cksum | tr ' ' -)
  stamp=$venv/seqmem-ready
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$dependencies $kernels" ]; then return; fi
  if [ -f "$stamp" ] && [ "$(cut -d ' ' -f 1 "$stamp")" = "$dependencies" ]; then
    echo "seqmem: compiling its native kernels anew" >&2
    "$venv/bin/python" -P -m seqmem.kernels.build >&2 || true # it prints the reason itself
    echo "$dependencies $kernels" >"$stamp"
    return
  fi
  python=${PYTHON:-python3}
  command -v "$python" >/dev/null || { echo "$0: there is no $python: install Python 3.11, or set PYTHON=/path/to/python3" >&2; exit 2; }
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
    { echo "$0: $python is $("$python" --version 2>&1), seqmem needs Python 3.11 to 3.13: set PYTHON=/path/to/python3" >&2; exit 2; }
  echo "seqmem: setting itself up in $venv (once, a minute or two)" >&2
  [ -x "$venv/bin/python" ] || "$python" -P -m venv "$venv" ||
    { echo "$0: cannot make a virtual environment in $venv (on Debian: apt-get install python3-venv)" >&2; exit 1; }
  # Byte-compiling all packages would double the time; Python compiles modules on first use.
  "$venv/bin/python" -P -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint "$root/constraints.txt" --editable "$root[dev]" >&2 ||
    { echo "$0: pip could not install what seqmem needs; see above" >&2; exit 1; }
  echo "$dependencies $kernels" >"$stamp"
}

# The page's tests need a real browser. If there is none, begin_browser installs Debian's in the background (as root),
# in parallel with pip; end_browser waits for it. $CHROMIUM names another browser.
begin_browser() {
  browser=
  if [ -n "${CHROMIUM:-}" ]; then return; fi
  for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
    if command -v "$name" >/dev/null; then return; fi
  done
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi # the tests say what is missing
  echo "seqmem: installing Chromium, which tests of its page need (once, a minute or two)" >&2
  browser_log=$(mktemp)
  (
    export DEBIAN_FRONTEND=noninteractive
    install="apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends chromium"
    $install || { apt-get -qq update && $install; }
  ) >"$browser_log" 2>&1 </dev/null &
  browser=$!
}

end_browser() {
  if [ -z "$browser" ]; then return; fi
  wait "$browser" ||
    echo "$0: apt-get could not install chromium: $(grep '^E:' "$browser_log" | tail -n 1)" >&2
  rm -f "$browser_log"
}
