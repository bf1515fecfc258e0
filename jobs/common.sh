# shellcheck shell=bash
# What the job scripts share: messages, and finding a Python that can make an environment.

set -euo pipefail

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}

# Prints the first Python of at least 3.11 that has the venv module. PYTHON=... chooses one. Each
# candidate is run, because a name on the PATH may be a shim of a version that is not there.
find_python() {
    local candidate names=(python3 python3.13 python3.12 python3.11 python /usr/bin/python3)
    if [ -n "${PYTHON:-}" ]; then names=("$PYTHON"); fi
    for candidate in "${names[@]}"; do
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "no Python of at least 3.11 with its venv module among: ${names[*]}.
On a cluster try 'module load python'; elsewhere install one without root by 'uv python install
3.12' or conda. Then run this again as PYTHON=/path/to/python3 $0"
}

# Makes an environment with pip in the folder $2 by the Python $1. Debian and Ubuntu ship Python
# without ensurepip; there pip's own wheel, checked against the digest that PyPI states, installs
# itself.
make_environment() {
    local python=$1 folder=$2
    rm -rf "$folder"
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv "$folder"
        return
    fi
    "$python" -m venv --without-pip "$folder"
    "$folder/bin/python" - "$folder" <<'PYTHON' || fail "cannot fetch pip from pypi.org; is the network reachable? Installing the package python3-venv also helps."
import hashlib, json, pathlib, subprocess, sys, urllib.parse, urllib.request

index = "https://pypi.org/pypi/pip/json"
release = json.load(urllib.request.urlopen(index, timeout=60))
file = next(file for file in release["urls"] if file["packagetype"] == "bdist_wheel")
address = urllib.parse.urljoin(index, file["url"])
content = urllib.request.urlopen(address, timeout=60).read()
if hashlib.sha256(content).hexdigest() != file["digests"]["sha256"]:
    sys.exit("the pip wheel arrived damaged")
wheel = pathlib.Path(sys.argv[1], file["filename"])
wheel.write_bytes(content)
subprocess.run([sys.executable, f"{wheel}/pip", "install", "--quiet", wheel], check=True)
wheel.unlink()
PYTHON
}

# Where wheels are kept whose building takes minutes; HPCTEM_CACHE names another folder.
# shellcheck disable=SC2034 # for the scripts that source this
wheels=${HPCTEM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hpctem}/wheels

# What a wheel that is kept depends on: the Python $1 with its processor, the MPI of the system.
name_python() {
    "$1" -c 'import platform, sys
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}")'
}

name_mpi() { mpirun --version | sed -n '1,2p' | tr -cs '[:alnum:].' '-'; }

# Builds the wheel of $3 (name==version) into the folder $2, in an environment of the Python $1 that
# has the packages $4 ...; variables that steer the building are set by the caller.
build_wheel() {
    local python=$1 folder=$2 package=$3 scratch
    shift 3
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder of this call
    trap "rm -rf '$scratch'" EXIT
    make_environment "$python" "$scratch/environment"
    "$scratch/environment/bin/pip" install -q "$@"
    PATH=$scratch/environment/bin:$PATH "$scratch/environment/bin/pip" wheel -q --no-deps \
        --no-cache-dir --no-build-isolation --no-binary="${package%%==*}" "$package" \
        -w "$scratch/wheel"
    # Renamed into place, so that a broken build never leaves half a wheel behind.
    mkdir -p "$folder"
    mv "$scratch"/wheel/*.whl "$folder/"
    rm -rf "$scratch"
    trap - EXIT
}

# Puts hpctem on the PATH: that of the active environment, else the one that jobs/quickstart makes.
# shellcheck disable=SC2154 # root is set by the scripts that source this
find_hpctem() {
    command -v hpctem >/dev/null || PATH=$root/.venv/bin:$PATH
    command -v hpctem >/dev/null || fail "there is no hpctem on the PATH, nor in $root/.venv:
activate its environment, or run jobs/quickstart"
    export PATH
}

# Runs a command on ranks, in place of this script: launch RANKS COMMAND... HPCTEM_LAUNCHER says how
# (srun --mpi=pmix, mpirun, none): by default srun within an allocation, else mpirun where it is.
# HPCTEM_RANKS ranks are started by mpirun, without it those of the allocation, else RANKS. With
# HPCTEM_RANK_LOGS each rank also writes a log in that folder.
# shellcheck disable=SC2154
launch() {
    local ranks=${HPCTEM_RANKS:-${SLURM_NTASKS:-$1}} usual=none start
    shift
    if [ -n "${SLURM_JOB_ID:-}" ] && command -v srun >/dev/null; then
        usual='srun --mpi=pmix'
    elif [ "$ranks" -gt 1 ] && command -v mpirun >/dev/null; then
        usual=mpirun
    fi
    read -ra start <<<"${HPCTEM_LAUNCHER:-$usual}"
    case ${start[0]} in
        none) start=() ;;
        mpirun | mpiexec) start+=(-n "$ranks") ;;
    esac
    if [ -n "${HPCTEM_RANK_LOGS:-}" ]; then set -- "$root/jobs/rank" "$HPCTEM_RANK_LOGS" "$@"; fi
    exec "${start[@]}" "$@"
}
