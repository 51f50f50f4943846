# Sourced by the other scripts. `setup` makes a virtual environment in $root/.venv on first use, and mends it when its
# dependencies have changed, when the checkout was moved or copied, when its Python is gone or when setting up was killed;
# it compiles the native kernels when their sources have changed. They are optional: everything works without a C++
# compiler. `setup dev` also installs what tests, linter and type checker need.
# SEQMEM_VENV=DIR chooses another directory, PYTHON=/path/to/python3.12 the Python (3.11 to 3.13).
root=$(CDPATH= cd -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd -P)
venv=${SEQMEM_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
# Without cached bytecode every start would compile torch's modules again, which takes seconds.
unset PYTHONDONTWRITEBYTECODE
# They would make the environment's Python look for its own modules elsewhere.
unset PYTHONHOME PYTHONPLATLIBDIR

# Prints the comment on top of the script and ends it, if its first argument asks for help.
show_help() {
  case ${1:-} in
    -h | --help)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
  esac
}

setup() {
  what=${1:-run}
  _set_up
  unset PYTHONPATH # it may have another seqmem
}

_set_up() {
  kernels=$(cat "$root"/src/seqmem/kernels/*.[ch]pp "$root/src/seqmem/kernels/build.py" | cksum | tr ' ' -)
  dependencies=$(cat "$root/pyproject.toml" "$root/constraints.txt" "$root/scripts/hatch_build.py" | cksum | tr ' ' -)
  stamp=$venv/seqmem-ready had_dependencies= had_kernels= had_what= had_root= had_venv= had_python=
  if [ -f "$stamp" ]; then
    { read -r had_dependencies had_kernels had_what; read -r had_root; read -r had_venv; read -r had_python; } <"$stamp" || :
  fi
  if [ "$had_what" = dev ]; then what=dev; fi
  if [ "$had_dependencies $had_what" = "$dependencies $what" ] && _is_in_place; then
    if [ "$had_kernels" = "$kernels" ]; then return; fi
    if [ -w "$stamp" ]; then
      echo "seqmem: compiling its native kernels anew" >&2
      _python "$venv/bin/python" -m seqmem.kernels.build >&2 || : # it prints the reason itself
      _write_stamp
      return
    fi
  fi
  if ! { mkdir -p -- "$venv" && [ -w "$venv" ]; } 2>/dev/null; then
    [ -z "${SEQMEM_VENV:-}" ] && [ -n "${HOME:-}" ] ||
      { echo "$0: cannot write to $venv: set SEQMEM_VENV=DIR to a directory of your own" >&2; exit 1; }
    SEQMEM_VENV=${XDG_CACHE_HOME:-$HOME/.cache}/seqmem/venv-$(printf %s "$root" | cksum | cut -d ' ' -f 1)
    venv=$SEQMEM_VENV
    _set_up
    return
  fi
  _lock
  _install
  rm -f -- "$lock"
}

# Whether the environment was made for this checkout, stands where it was made, and has its Python.
_is_in_place() {
  [ "$had_root" = "$root" ] && [ "$had_venv" = "$venv" ] && [ -x "$venv/bin/python" ] &&
    [ "$had_python" = "$(readlink -f -- "$venv/bin/python")" ]
}

_write_stamp() {
  printf '%s\n' "$dependencies $kernels $what" "$root" "$venv" "$(readlink -f -- "$venv/bin/python")" >"$stamp.new"
  mv -f -- "$stamp.new" "$stamp"
}

# One process sets up at a time. A lock whose process is gone means that setting up was killed: begin anew.
_lock() {
  lock=$venv/seqmem-setting-up said=
  until (set -C; echo $$ >"$lock") 2>/dev/null; do
    owner=$(cat "$lock" 2>/dev/null || :)
    if [ -z "$owner" ]; then
      sleep 1 # it was just created or removed
      if [ -f "$lock" ] && [ ! -s "$lock" ]; then rm -f -- "$lock"; fi
    elif kill -0 "$owner" 2>/dev/null; then
      [ -n "$said" ] || echo "seqmem: process $owner is setting up $venv: waiting (if it is not, delete $lock)" >&2
      said=1
      sleep 1
    else
      echo "seqmem: setting up $venv was stopped: it begins anew" >&2
      _clear
      rm -f -- "$lock"
    fi
  done
}

# Only what a virtual environment consists of: SEQMEM_VENV may have other files.
_clear() { (cd -- "$venv" && rm -rf -- bin lib lib64 include share pyvenv.cfg seqmem-ready); }

# Python for setting up: nothing of the user's own settings may get into the environment or lead out of it. Those that
# say where packages come from (PIP_INDEX_URL, proxies, certificates) stay.
_python() (
  unset PYTHONPATH PYTHONWARNINGS PYTHONOPTIMIZE PYTHONSTARTUP PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT
  unset PIP_PYTHON PIP_NO_DEPS PIP_DRY_RUN PIP_REQUIREMENT PIP_EDITABLE PIP_IGNORE_INSTALLED PIP_REQUIRE_HASHES
  # Files of the working directory are not run as modules.
  export PYTHONSAFEPATH=1
  exec "$@"
)

_pip() {
  # Byte-compiling all packages would double the time; Python compiles modules on first use. Earlier pips warn, in six
  # lines, of how they build one of Hydra's packages.
  _python env PYTHONWARNINGS=ignore SEQMEM_SETTING_UP=1 "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-user \
    --constraint "$root/constraints.txt" "$@" >&2 ||
    { kill "$compiling" 2>/dev/null; rm -f -- "$lock"; echo "$0: pip could not install what seqmem needs; see above" >&2; exit 1; }
}

_install() {
  relocated=
  if [ -e "$venv/bin/python" ] && [ -n "$had_venv" ] && [ "$had_root $had_venv" != "$root $venv" ]; then
    echo "seqmem: $had_root was moved or copied here: its virtual environment is set up for $root" >&2
    _python "$venv/bin/python" -c "$RELOCATE" "$had_venv" "$venv"
    relocated=1
  elif [ "$had_dependencies $what" = "$dependencies dev" ]; then
    echo "seqmem: installing what tests need into $venv (once, a minute or two)" >&2
  else
    echo "seqmem: setting itself up in $venv (once, a minute or two)" >&2
  fi
  if ! _python "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    _find_python
    if [ -e "$venv/pyvenv.cfg" ]; then
      [ -z "$had_python" ] || echo "seqmem: the Python that $venv was made with, $had_python, is gone or another" >&2
      _clear
    fi
    relocated=
    _python "$python" -m venv "$venv" ||
      { rm -f -- "$lock"; echo "$0: cannot make a virtual environment in $venv (on Debian: apt-get install python3-venv)" >&2; exit 1; }
  fi
  rm -f -- "$stamp"
  # The compiler works while pip does. build.py prints itself why there are no kernels.
  _python "$venv/bin/python" "$root/src/seqmem/kernels/build.py" --missing >&2 &
  compiling=$!
  if [ "$what" = dev ]; then extras='[dev]'; else extras=; fi
  if [ -n "$relocated" ] && [ "$had_dependencies $had_what" = "$dependencies $what" ]; then
    _pip --no-build-isolation --no-deps --editable "$root" # needs no network: hatchling is there
  else
    _pip --editable "$root$extras" hatchling
  fi
  wait "$compiling" || :
  [ -f "$venv/bin/seqmem" ] ||
    { rm -f -- "$lock"; echo "$0: pip installed seqmem elsewhere: does \`pip config list\` set a target or a prefix?" >&2; exit 1; }
  _write_stamp
}

# Sets $python: $PYTHON, or the first that is suitable. Not the environment's own, which may be activated.
_find_python() {
  if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11; fi
  first=
  for python in "$@"; do
    where=$(command -v -- "$python") || continue
    case $where in "$venv"/*) continue ;; esac
    if _python "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then return; fi
    first=${first:-$python}
  done
  rm -f -- "$lock"
  if [ -z "$first" ]; then
    echo "$0: there is no $1: install Python 3.11, or set PYTHON=/path/to/python3" >&2
  else
    echo "$0: $first is $("$first" --version 2>&1), seqmem needs Python 3.11 to 3.13: set PYTHON=/path/to/python3" >&2
  fi
  exit 2
}

# Replaces the path of the environment in its scripts and settings.
RELOCATE='
import pathlib, sys
old, new = (path.encode() for path in sys.argv[1:])
for file in [*pathlib.Path(sys.argv[2], "bin").iterdir(), pathlib.Path(sys.argv[2], "pyvenv.cfg")]:
    if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 20:
        text = file.read_bytes()
        if b"\0" not in text and old in text:
            file.write_bytes(text.replace(old, new))
'

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
