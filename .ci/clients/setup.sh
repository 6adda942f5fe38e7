# What the checks with real clients share. Sourced from the root of the clone by `.ci/sse` and the
# like, which set MEMBER.
source .ci/lib.sh
ulimit -n 8192                         # a thousand clients in one process, with nginx in front
WORK=$(mktemp -d "$TOOLS/work.XXXXXX") # below the folder in which Node finds its packages
trap 'rm -rf "$WORK"' EXIT
PROFILE=${PROFILE:-release}            # or `dev`
export SERVER=$PWD/target/${PROFILE/dev/debug}/$MEMBER

member_step() { step "$MEMBER: $1" "${@:2}"; }

client_tools() { # the clients, the scripts of the checks in $WORK, the server's binary
    needs curl nginx chromium jq openssl
    python_packages
    npm_packages
    cp -r .ci/clients/. "$WORK"
    cp -r "${CLIENTS:-$MEMBER/tests/clients}"/. "$WORK"
    cargo build --quiet --locked --profile "$PROFILE" -p "$MEMBER"
    echo "node $(node --version), $(nginx -v 2>&1), $(chromium --version 2>/dev/null)"
    curl --version | head -n 1
}

check() { (cd "$WORK" && timeout 240 node "$@"); } # check SCRIPT [ARGUMENT…]

access_page() { # access_page INTERFACE: the browser's interface that the page of the member's example uses
    local example=${MEMBER//-/_}_access
    cargo build --quiet --locked -p "$MEMBER" --example "$example"
    EXAMPLE=$PWD/target/debug/examples/$example check access.js "$1"
}
