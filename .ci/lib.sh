# What the check's scripts share. Sourced from the root of the clone.
set -euo pipefail
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 # one build needs neither, and both take time
TOOLS=$PWD/target/ci                                 # the packages of npm and PyPI, kept between runs
mkdir -p "$TOOLS"
export PYTHON=$TOOLS/venv/bin/python
export TIMES=${TIMES:-$TOOLS/times} # `.ci/run` prints it at the end

step() { # step NAME COMMAND…: runs the command and prints how long it took
    local started=$SECONDS
    printf '\n=== %s\n' "$1"
    "${@:2}"
    printf -- '--- %s: %d s\n' "$1" $((SECONDS - started))
    printf '%6d s  %s\n' $((SECONDS - started)) "$1" >>"$TIMES"
}

needs() { # needs COMMAND[=PACKAGE]…: installs the Debian package of each command that is missing
    local need missing=()
    for need in "$@"; do
        command -v "${need%%=*}" >/dev/null || missing+=("${need#*=}")
    done
    [[ ${#missing[@]} == 0 ]] || install "${missing[@]}"
}

install() { # install PACKAGE…
    local root=() log=$TOOLS/apt.log
    [[ $EUID == 0 ]] || root=(sudo)
    echo "installing $*"
    {
        "${root[@]}" apt-get update -qq &&
            "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
                -o DPkg::Lock::Timeout=120 "$@"
    } >"$log" 2>&1 || { cat "$log" && return 1; }
}

python_packages() { # those of `.ci/clients/requirements.txt`, in an environment apart
    python3 -c 'import ensurepip' 2>/dev/null || install python3-venv
    python3 -m venv "$TOOLS/venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r .ci/clients/requirements.txt
}

npm_packages() { # those of `.ci/clients/package.json`, Node itself among them
    needs npm
    cp .ci/clients/package.json "$TOOLS"
    (cd "$TOOLS" && npm install --silent --no-audit --no-fund)
    export PATH=$TOOLS/node_modules/.bin:$PATH
}
