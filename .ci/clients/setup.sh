# What the checks with real clients share; sourced by `.ci/sse` and its like, which set MEMBER.
set -euo pipefail
ulimit -n 8192 # a thousand clients in one process, and nginx in front
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export SERVER=$PWD/target/release/$MEMBER
export PYTHON=$WORK/venv/bin/python

step() { # step NAME COMMAND…: runs it and says how long it took
    printf '\n=== %s: %s\n' "$MEMBER" "$1"
    local started=$SECONDS
    "${@:2}"
    printf -- '--- %s: %s: %d s\n' "$MEMBER" "$1" $((SECONDS - started))
}

missing_packages() { # the packages of those tools that are missing
    command -v nginx >/dev/null || echo nginx
    command -v chromium >/dev/null || echo chromium
    command -v jq >/dev/null || echo jq
    command -v openssl >/dev/null || echo openssl
    command -v npm >/dev/null || printf '%s\n' nodejs npm
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "${missing[@]}" >"$WORK/apt.log" 2>&1 ||
        { cat "$WORK/apt.log" && return 1; }
}

client_tools() { # client_tools PYTHON_PACKAGE…: the tools, the checks in $WORK, the server's binary
    install_packages
    cp -r .ci/clients/. "$WORK"
    cp -r "$MEMBER"/tests/clients/. "$WORK" # a member's own stand above the shared ones
    (cd "$WORK" && npm install --silent --no-audit --no-fund)
    python3 -m venv "$WORK/venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@"
    cargo build --quiet --locked --release -p "$MEMBER"
    echo "node $(node --version), $(nginx -v 2>&1), $(chromium --version 2>/dev/null)"
    curl --version | head -n 1
}

check() { (cd "$WORK" && timeout 120 node "$1"); }
