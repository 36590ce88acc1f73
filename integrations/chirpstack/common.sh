# shellcheck shell=bash
# What database.sh and configure.sh share: the secrets, which both make up and neither shows.

# Not in /etc/chirpstack: every upgrade of the package gives that folder to the user chirpstack
# (postinst of ChirpStack 4).
SECRETS=${SECRETS:-/etc/openenergy/chirpstack.secrets}

open_secrets() {
    make_secrets_file || fail "$SECRETS cannot be written. Only root can do that: sudo $0"
}

# make_secrets_file: for this user alone, whatever it was before.
make_secrets_file() {
    mkdir -p "$(dirname "$SECRETS")" && (umask 077 && touch "$SECRETS") && chmod 600 "$SECRETS"
}

# kept NAME: prints what is kept under that name, nothing if there is none.
kept() {
    sed -n "s/^$1=//p" "$SECRETS"
}

# secret NAME: prints it; the first time it is made up. Hexadecimal: fits into SQL, URLs and TOML.
secret() {
    local value
    value=$(kept "$1")
    if [[ -z $value ]]; then
        value=$(openssl rand -hex 24) || return
        echo "$1=$value" >>"$SECRETS"
    fi
    echo "$value"
}

fail() {
    echo "$*" >&2
    exit 1
}
