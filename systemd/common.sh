# shellcheck shell=bash disable=SC2034  # those who source this use them
# Where install.sh puts things, and uninstall.sh finds them.

# A link to one folder of RELEASES, which are named after their content.
INSTALLED=/opt/openenergy
RELEASES=/opt/openenergy.releases
CONFIGURATION=/etc/openenergy
UNITS=/etc/systemd/system

step() {
    echo "$*"
}
