# shellcheck shell=bash
# What demo/run.sh and tests/run.sh need on a new Debian. Sourced by both, from the repository.

# Debian's servers are in /usr/sbin, which is not on a user's PATH.
PATH="$PATH:/usr/sbin:/sbin"

# Which package brings a program, where it is named differently.
declare -A package_of=(
    [certutil]=libnss3-tools
    [influx]=influxdb-client
    [influxd]=influxdb
    [mosquitto_sub]=mosquitto-clients
    [node]=nodejs
    [pg_ctlcluster]=postgresql
    [update-ca-certificates]=ca-certificates
)

# need_programs PROGRAM...: installs the packages of those that are missing, and Python.
need_programs() {
    local program packages=()
    for program in "$@"; do
        command -v "$program" >/dev/null || packages+=("${package_of[$program]:-$program}")
    done
    # Debian leaves ensurepip, which every new venv needs, to python3-venv.
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
    if ((${#packages[@]})); then
        install_packages "${packages[@]}"
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed; this is $(python3 --version)."
}

install_packages() {
    local command="apt-get install --no-install-recommends $*" as_root=()
    echo "Installing Debian packages: $*" >&2
    command -v apt-get >/dev/null || fail "This is not Debian. Install what these packages bring: $*"
    if ((EUID)); then
        command -v sudo >/dev/null || fail "Only root can do that, and there is no sudo. As root: $command"
        as_root=(sudo)
    fi
    "${as_root[@]}" bash demo/install_packages.sh "$@" || fail "That failed. As root, try: $command"
}

# make_venv FOLDER REQUIREMENTS_FILE...: creates or updates it, unless nothing changed since.
make_venv() {
    local venv=$1 file wanted arguments=()
    shift
    for file in "$@"; do
        arguments+=(--requirement "$file")
    done
    wanted=$({ python3 --version && cat "$@"; } | sha256sum)
    [[ $(cat "$venv/made-of" 2>/dev/null) != "$wanted" ]] || return 0
    echo "Installing Python packages into $venv" >&2
    # Without its pip a venv is half made, or of another Python, as after an upgrade of Debian.
    "$venv/bin/python" -m pip --version &>/dev/null || python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
    echo "$wanted" >"$venv/made-of"
}

# make_node_modules FOLDER: installs what its package-lock.json names, unless nothing changed since.
make_node_modules() {
    local wanted
    wanted=$(node --version && sha256sum <"$1/package-lock.json")
    [[ $(cat "$1/node_modules/made-of" 2>/dev/null) != "$wanted" ]] || return 0
    echo "Installing Node.js packages into $1" >&2
    # None of these packages needs its scripts, which could do anything.
    (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
    echo "$wanted" >"$1/node_modules/made-of"
}

fail() {
    echo "$*" >&2
    exit 1
}
