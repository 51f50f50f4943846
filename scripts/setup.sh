# Sourced by the other scripts: makes $root/.venv ready on first use, and whenever what it is made of has changed;
# compiles the native kernels anew when their sources alone have. Without a C++ compiler there are none, and all works.
# SEQMEM_VENV=DIR puts it elsewhere, PYTHON=/path/to/python3.12 picks the Python (3.11 to 3.13).
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
venv=${SEQMEM_VENV:-$root/.venv}
# Without compiled modules every start would compile torch anew, for seconds: what is in here is compiled once, as Python
# does unless it is told otherwise.
unset PYTHONDONTWRITEBYTECODE

setup() {
  kernels=$(cat "$root"/src/seqmem/kernels/*.cpp "$root/src/seqmem/kernels/build.py" | cksum | tr ' ' -)
  wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" "$root/scripts/hatch_build.py" | cksum | tr ' ' -)
  stamp=$venv/seqmem-ready
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted $kernels" ]; then return; fi
  if [ -f "$stamp" ] && [ "$(cut -d ' ' -f 1 "$stamp")" = "$wanted" ]; then
    echo "seqmem: compiling its native kernels anew" >&2
    "$venv/bin/python" -m seqmem.kernels.build >&2 || true # it says itself why not
    echo "$wanted $kernels" >"$stamp"
    return
  fi
  python=${PYTHON:-python3}
  command -v "$python" >/dev/null || { echo "$0: there is no $python: install Python 3.11, or set PYTHON=/path/to/python3" >&2; exit 2; }
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
    { echo "$0: $python is $("$python" --version 2>&1), seqmem needs Python 3.11 to 3.13: set PYTHON=/path/to/python3" >&2; exit 2; }
  echo "seqmem: setting itself up in $venv (once, a minute or two)" >&2
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
    { echo "$0: cannot make a virtual environment in $venv (on Debian: apt-get install python3-venv)" >&2; exit 1; }
  # Byte-compiling everything up front would double the time; Python does it for what is used.
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint "$root/constraints.txt" --editable "$root[dev]" >&2 ||
    { echo "$0: pip could not install what seqmem needs; see above" >&2; exit 1; }
  echo "$wanted $kernels" >"$stamp"
}

# The page's tests drive a real browser. Where there is none, and this may be done, begin_browser installs Debian's in
# the background, beside pip; end_browser waits for it. $CHROMIUM names one of your own.
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
