#!/usr/bin/env bash
# Writes the configuration of ChirpStack 4 and its gateway bridge from the templates in this folder.
# Usage: sudo ./configure.sh [WEB_ADDRESS]
#
# WEB_ADDRESS is where ChirpStack's pages are, 127.0.0.1:8081 unless told otherwise, and $PGPORT
# PostgreSQL's port, 5432; both are kept for the next time. Called again it changes nothing, unless a
# template, a secret or one of these changed. A file that is replaced stays beside the new one as
# FILE.~1~, FILE.~2~ and so on. Files go below $DESTDIR.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
source integrations/chirpstack/common.sh

main() {
    local web_address postgresql_port
    if (($# > 1)) || [[ ${1-} && ! $1 =~ ^[0-9.]+:[0-9]+$ ]]; then
        echo "Usage: sudo $0 [WEB_ADDRESS], for example 0.0.0.0:8081" >&2
        exit 2
    fi
    open_secrets
    web_address=$(setting web_address "${1-}" 127.0.0.1:8081)
    postgresql_port=$(setting postgresql_port "${PGPORT-}" 5432)
    render chirpstack.toml chirpstack
    render region_eu868.toml chirpstack
    render chirpstack-gateway-bridge.toml chirpstack-gateway-bridge
}

# setting NAME VALUE DEFAULT: prints VALUE and keeps it; without one, what was kept or the default.
setting() {
    local value=$2
    if [[ $value ]]; then
        sed -i "/^$1=/d" "$SECRETS"
        echo "$1=$value" >>"$SECRETS"
    else
        value=$(kept "$1")
    fi
    echo "${value:-$3}"
}

# render TEMPLATE PACKAGE: into the package's folder, readable by its service and nobody else.
render() {
    local folder=${DESTDIR-}/etc/$2 target text
    target=$folder/$1
    [[ -d $folder ]] || fail "There is no $folder: install the package $2 first."
    text=$(<"integrations/chirpstack/$1")
    text=${text//@postgresql_password@/$(secret postgresql_chirpstack)}
    text=${text//@postgresql_port@/$postgresql_port}
    text=${text//@mqtt_password@/$(secret mqtt_chirpstack)}
    text=${text//@api_secret@/$(secret api)}
    text=${text//@web_address@/$web_address}
    if [[ -e $target && $(<"$target") == "$text" ]]; then
        echo "Unchanged: $target"
        return
    fi
    [[ ! -e $target ]] || echo "Replaced, but kept as $1.~NUMBER~: $target"
    # The package gave the folder to the group its service runs as.
    install --backup=numbered --group "$(stat --format %g "$folder")" --mode 640 \
        /dev/stdin "$target" <<<"$text"
    echo "Written: $target"
}

main "$@"
