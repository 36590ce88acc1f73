#!/usr/bin/env bash
# Installs Debian packages without starting the services they bring. Runs as root.
# Usage: install_packages.sh PACKAGE...
set -euo pipefail

# A minimal Debian has no apt-utils, which is no news.
export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes

apt_get() {
    # The lock may be held by Debian's own updates, for minutes after booting.
    apt-get --quiet=2 --option DPkg::Lock::Timeout=300 "$@" >/dev/null
}

# Exit status 101 forbids every start (invoke-rc.d(8)); a policy that exists is the owner's.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

# The package lists may be missing (a new machine) or too old (a package was replaced since).
install=(install --yes --no-install-recommends "$@")
apt_get "${install[@]}" --download-only 2>/dev/null || apt_get update
apt_get "${install[@]}"
