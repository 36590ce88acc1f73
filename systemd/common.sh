# shellcheck shell=bash
# What install.sh and uninstall.sh both know. Sourced by them.

# A link to one folder of RELEASES, which are named after their content.
INSTALLED=/opt/openenergy
# shellcheck disable=SC2034  # those who source this use it
RELEASES=/opt/openenergy.releases
# shellcheck disable=SC2034
CONFIGURATION=/etc/openenergy
UNITS=/etc/systemd/system

# installed_services: prints those that start when the machine does.
installed_services() {
    local unit
    [[ -L $INSTALLED ]] || return 0
    for unit in "$UNITS"/multi-user.target.wants/{plug_2_mqtt,mqtt_2_influx{,@*},button_server}.service; do
        [[ ! -L $unit ]] || basename "$unit" .service
    done
}

# unit_of SERVICE: prints the name of its unit file.
unit_of() {
    case $1 in
        mqtt_2_influx@?*) echo mqtt_2_influx@.service ;;
        *) echo "$1.service" ;;
    esac
}

step() {
    echo "$*"
}
