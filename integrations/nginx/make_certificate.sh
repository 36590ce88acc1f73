#!/usr/bin/env bash
# Makes a small certificate authority, once, and a certificate of this server signed by it.
# Usage: make_certificate.sh [NAME_OR_ADDRESS...]
#
# Called again it renews the server's certificate when it is about to expire, or for other names;
# clients that trust the authority notice nothing. Without arguments the names stay as they are;
# the first time they are this machine's names and addresses. Files go to /etc/nginx/openenergy, or
# to $TLS_FOLDER.
set -euo pipefail
umask 077

folder=${TLS_FOLDER:-/etc/nginx/openenergy}
# Apple's devices refuse certificates of more than 825 days (https://support.apple.com/103769).
server_days=800
ca_days=7300
renew_s=$((60 * 86400))

main() {
    local names=("$@") present name
    mkdir -p "$folder"
    chmod 755 "$folder"
    cd "$folder"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mapfile -t present < <(names_in server.crt)
    ((${#names[@]})) || names=("${present[@]}")
    ((${#names[@]})) || mapfile -t names < <(names_of_this_machine)
    for name in "${names[@]}"; do
        [[ $name =~ ^[A-Za-z0-9.:-]+$ ]] || fail "Neither a host's name nor an address: $name"
    done

    [[ -e ca.crt ]] || make_authority "${names[@]}"
    if [[ ${names[*]} == "${present[*]}" ]] &&
        openssl x509 -in server.crt -noout -checkend "$renew_s" >/dev/null; then
        echo "Good until $(expiry server.crt): $folder/server.crt"
    else
        make_server_certificate "${names[@]}"
        echo "Made, good until $(expiry server.crt): $folder/server.crt for ${names[*]}"
    fi
    echo "Clients have to trust $folder/ca.crt, whose fingerprint is"
    openssl x509 -in ca.crt -noout -fingerprint -sha256
}

names_of_this_machine() {
    local name
    name=$(hostname)
    printf '%s\n' "$name" "$name.local" 127.0.0.1
    # Addresses of IPv6 change too often to be certified.
    hostname -I 2>/dev/null | tr ' ' '\n' | grep -F . || true
}

# names_in CERTIFICATE: those that it is good for, one a line; none if it does not exist.
names_in() {
    [[ ! -e $1 ]] || openssl x509 -in "$1" -noout -ext subjectAltName |
        grep -oE '(DNS|IP Address):[^, ]+' | cut -d: -f2-
}

expiry() {
    openssl x509 -in "$1" -noout -enddate | cut -d= -f2
}

# entry NAME_OR_ADDRESS: as openssl writes it, DNS:pi.local or IP:192.168.1.2
entry() {
    if [[ $1 == *:* || $1 =~ ^[0-9.]+$ ]]; then
        echo "IP:$1"
    else
        echo "DNS:$1"
    fi
}

# make_authority NAME...: it can sign only for private networks and for NAME..., so that clients
# which trust it lose nothing elsewhere, should its key be stolen (RFC 5280, section 4.2.1.10).
make_authority() {
    local permitted=(
        DNS:{local,lan,internal,home.arpa,fritz.box}
        IP:{10.0.0.0/255.0.0.0,172.16.0.0/255.240.0.0,192.168.0.0/255.255.0.0,127.0.0.0/255.0.0.0}
        IP:fc00::/fe00::
    )
    local name
    for name in "$@"; do
        name=$(entry "$name")
        case $name in
            IP:*:*) name+=/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ;;
            IP:*) name+=/255.255.255.255 ;;
        esac
        permitted+=("$name")
    done
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \
        -days "$ca_days" -subj "/CN=openenergy on $(hostname | cut -c -40)" \
        -keyout "$work/ca.key" -out "$work/ca.crt" \
        -addext basicConstraints=critical,CA:TRUE,pathlen:0 \
        -addext keyUsage=critical,keyCertSign,cRLSign \
        -addext "nameConstraints=critical$(printf ',permitted;%s' "${permitted[@]}")"
    keep ca
}

# make_server_certificate NAME...: leaves the old one if the authority may not sign for a NAME.
make_server_certificate() {
    local list
    list=$(for name in "$@"; do entry "$name"; done | paste -sd ,)
    quietly openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=openenergy \
        -keyout "$work/server.key" -out "$work/server.csr"
    cat >"$work/extensions" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = $list
END
    quietly openssl x509 -req -in "$work/server.csr" -CA ca.crt -CAkey ca.key \
        -days "$server_days" -extfile "$work/extensions" -out "$work/server.crt"
    openssl verify -CAfile ca.crt "$work/server.crt" &>/dev/null ||
        fail "The authority may not sign for all of: $*
To make another, which clients have to trust anew: rm $folder/ca.*"
    keep server
}

# keep NAME: puts a new key and its certificate in their place.
keep() {
    chmod 644 "$work/$1.crt"
    mv "$work/$1.key" "$work/$1.crt" .
}

# quietly COMMAND...: shows what it says only if it fails.
quietly() {
    local output
    output=$("$@" 2>&1) || fail "$output"
}

fail() {
    echo "$*" >&2
    exit 1
}

main "$@"
