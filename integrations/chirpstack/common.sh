# shellcheck shell=bash
# What database.sh and configure.sh share: the secrets, which both make up and neither shows.

# Not in /etc/chirpstack: that folder is given to the user chirpstack by every upgrade of the package
# (postinst of ChirpStack 4).
SECRETS=${SECRETS:-/etc/openenergy/chirpstack.secrets}

# open_secrets: for this user alone, whatever the file was before.
open_secrets() {
    mkdir -p "$(dirname "$SECRETS")"
    (umask 077 && touch "$SECRETS") || fail "Only root can do that: sudo $0"
    chmod 600 "$SECRETS"
}

# kept NAME: prints what is kept under that name, nothing if there is none.
kept() {
    sed -n "s/^$1=//p" "$SECRETS"
}

# secret NAME: prints it; the first time it is made up. Hexadecimal: fits into SQL, URLs and TOML.
secret() {
    [[ -n $(kept "$1") ]] || echo "$1=$(openssl rand -hex 24)" >>"$SECRETS"
    kept "$1"
}

fail() {
    echo "$*" >&2
    exit 1
}
