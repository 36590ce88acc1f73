#!/usr/bin/env bash
# Removes what install.sh made. Keeps the configuration and the services' state (readings that
# were not delivered yet, meters); --purge removes these too.
# Usage: sudo systemd/uninstall.sh [--purge]
set -euo pipefail
PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd "$(dirname "$(readlink -f "$0")")/.."
source systemd/common.sh

main() {
    local unit name
    if (($# > 1)) || [[ ${1---purge} != --purge ]]; then
        echo "Usage: sudo systemd/uninstall.sh [--purge]" >&2
        exit 2
    fi
    if ((EUID)); then
        echo "Only root can uninstall: sudo systemd/uninstall.sh" >&2
        exit 1
    fi
    for unit in "$INSTALLED"/systemd/*.service; do
        name=$(basename "$unit")
        cmp --quiet "$unit" "$UNITS/$name" || continue
        step "Stopping and removing $name"
        # Of a template, all instances.
        systemctl stop "${name/@./@*.}"
        systemctl disable --quiet "$name"
        rm "$UNITS/$name"
    done
    systemctl daemon-reload
    systemctl reset-failed
    remove "$INSTALLED" "$RELEASES"
    if (($#)); then
        remove "$CONFIGURATION" /var/lib/openenergy /var/lib/private/openenergy
    fi
}

# remove PATH...: removes those that exist.
remove() {
    local path
    for path in "$@"; do
        if [[ -e $path || -L $path ]]; then
            step "Removing $path"
            rm --recursive "$path"
        fi
    done
}

main "$@"
