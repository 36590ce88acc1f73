#!/usr/bin/env bash
# Installs openenergy on this machine, or upgrades it, and starts its services.
# Usage: sudo systemd/install.sh [SERVICE...]
# SERVICE: plug_2_mqtt, mqtt_2_influx, button_server; or mqtt_2_influx@NAME, a further writer, which
# reads /etc/openenergy/mqtt_2_influx@NAME.toml. Without any: those that are installed already, on a
# new machine the first three.
#
# A new version is made and tried beside the old one; the old one runs until then, and again if a
# service does not start.
set -euo pipefail
# Debian's own Python, whatever else is installed.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C
umask 022
cd "$(dirname "$(readlink -f "$0")")/.."
source demo/setup.sh
source systemd/common.sh

FILES=(plug_2_mqtt.py mqtt_2_influx.py button_server.py requirements.txt openenergy systemd
    demo/setup.sh demo/install_packages.sh
    grafana/{__init__,aggregate}.py grafana/source/{__init__,queries}.py)
# What each service was last started with: version_of.
STARTED=$RELEASES/started
release=
consequence="Nothing has changed."

main() {
    local services=("$@") service previous
    trap at_exit EXIT
    ((EUID == 0)) || fail "Only root can install: sudo systemd/install.sh"
    [[ -d /run/systemd/system ]] || fail "This machine was not started by systemd."
    [[ -L $INSTALLED || ! -e $INSTALLED ]] ||
        fail "$INSTALLED was not made by this script. Move it elsewhere, then run this again."
    ((${#services[@]})) || mapfile -t services < <(installed_services)
    ((${#services[@]})) || services=(plug_2_mqtt mqtt_2_influx button_server)
    for service in "${services[@]}"; do
        [[ $service =~ ^(plug_2_mqtt|mqtt_2_influx(@[A-Za-z0-9_.-]+)?|button_server)$ ]] ||
            fail "There is no service ${service@Q}."
    done
    # Those that are not named will run the new version too.
    mapfile -t services < <({ printf '%s\n' "${services[@]}" && installed_services; } | sort -u)

    need_programs update-ca-certificates
    release=$RELEASES/$(content_id)
    make_release
    put_configuration "${services[@]}"
    for service in "${services[@]}"; do
        check "$service"
    done
    previous=$(readlink "$INSTALLED" || true)
    consequence="Not every service runs the new version yet: run this again."
    switch_to "$release" "${services[@]}"
    start "${services[@]}" || go_back "$previous" "${services[@]}"
    find "$RELEASES" -mindepth 1 -maxdepth 1 ! -path "$release" ! -path "$STARTED" -exec rm -r {} +
}

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

# at_exit: says what a failure means for what is installed.
at_exit() {
    (($? == 0)) || echo "That failed. $consequence" >&2
    [[ -e $release/complete ]] || rm -rf "$release"
}

# content_id: prints a name for this version: of its files, and of the Python it will run on.
content_id() {
    { python3 --version && digest "${FILES[@]}"; } | sha256sum | cut -c 1-12
}

# digest FILE_OR_FOLDER...: prints what stands for the content of all of them.
digest() {
    find "$@" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
}

# make_release: puts the project into the folder $release, with its venv.
make_release() {
    local script
    [[ ! -e $release/complete ]] || return 0
    step "Copying the project to $release"
    rm -rf "$release"
    mkdir -p "$release" "$STARTED"
    tar --create --exclude='*.pyc' "${FILES[@]}" |
        tar --extract --no-same-owner --directory "$release"
    chmod -R u=rwX,go=rX "$release"
    # Called by hand, the scripts read the same configuration.
    ln -s "$CONFIGURATION/credentials.toml" "$release/credentials.toml"
    # Most upgrades bring no other packages; make_venv makes it anew if they do.
    if cmp --quiet requirements.txt "$INSTALLED/requirements.txt"; then
        cp -a "$INSTALLED/.venv" "$release"
    fi
    make_venv "$release/.venv" requirements.txt
    "$release/.venv/bin/python" -m compileall -q "$release/openenergy"
    for script in "$release"/*.py; do
        "$release/.venv/bin/python" "$script" --version >/dev/null
    done
    touch "$release/complete"
}

# configuration_of SERVICE: prints the path of its configuration.
configuration_of() {
    local chosen default=$CONFIGURATION/credentials.toml
    [[ $1 != *@* ]] || default=$CONFIGURATION/$1.toml
    # What its owner has chosen with systemctl edit; systemctl show cannot print it.
    chosen=$(sed --quiet 's/^LoadCredential=credentials\.toml://p' \
        "$UNITS/$1.service.d"/*.conf 2>/dev/null | tail --lines=1) || true
    echo "${chosen:-$default}"
}

# put_configuration SERVICE...: puts the template where there is none; it holds secrets.
put_configuration() {
    local service file
    for service in "$@"; do
        file=$(configuration_of "$service")
        if [[ ! -e $file && $file != "$CONFIGURATION/credentials.toml" ]]; then
            fail "$service needs $file: like credentials.toml; a further writer its own client_id."
        elif [[ ! -e $file ]]; then
            step "Copying credentials.toml to $file"
            install -D --mode=600 credentials.toml "$file"
        elif [[ $(stat --format=%A "$file") == *r-? ]]; then
            step "Hiding $file from other users"
            chmod o= "$file"
        fi
    done
}

# check SERVICE: has the new version try its connections, with the rights the service will have.
check() {
    local service=$1 name=openenergy_check-$$ configuration report properties output status=
    step "Checking $service"
    configuration=$(configuration_of "$service")
    report=$(mktemp /run/openenergy.XXXXXX)
    mapfile -t properties < <(
        sed --quiet '/^\[Service\]/,/^\[Install\]/p' "$release/systemd/$(unit_of "$service")" |
            grep '^[A-Z]' | grep -Ev '^(Type|ExecStart|LoadCredential|StateDirectory|WatchdogSec|Restart)' |
            sed 's/^/--property=/'
    )
    output=$(systemd-run --quiet --unit="$name" --property=Type=oneshot "${properties[@]}" \
        --property=LoadCredential="credentials.toml:$configuration" \
        --property=StandardOutput="append:$report" --property=StandardError="append:$report" \
        "$release/.venv/bin/python" "$release/${service%@*}.py" --check 2>&1) ||
        status=$(systemctl show --property=ExecMainStatus --value "$name")
    systemctl reset-failed "$name" 2>/dev/null || true
    # The configuration goes by its own name, not by that of systemd's copy.
    sed "/LoadCredential=/d; s|/run/credentials/$name.service/credentials.toml|$configuration|; s/^/  /" \
        "$report"
    rm "$report"
    case $status in
        "") ;;
        1) step "  The service will try again until it answers." ;;
        78) fail "Correct $configuration, then run this again." ;;
        *) fail "$output" ;;
    esac
}

# switch_to RELEASE SERVICE...: makes it the installed one.
switch_to() {
    local release=$1 service unit
    shift
    for service in "$@"; do
        unit=$(unit_of "$service")
        if [[ -e $UNITS/$unit ]] && ! cmp --quiet {"$UNITS","$INSTALLED/systemd"}/"$unit"; then
            step "Keeping your own $UNITS/$unit as $unit.old"
            mv "$UNITS/$unit"{,.old}
        fi
        install --mode=644 {"$release/systemd","$UNITS"}/"$unit"
    done
    ln --symbolic --force --no-dereference "$release" "$INSTALLED.new"
    mv --no-target-directory "$INSTALLED.new" "$INSTALLED"
    systemctl daemon-reload
}

# version_of SERVICE: prints what stands for all that it runs on.
version_of() {
    digest "$INSTALLED"/{.venv/made-of,openenergy,"${1%@*}.py"} "$UNITS/$(unit_of "$1")" \
        "$(configuration_of "$1")" | sha256sum
}

# start SERVICE...: starts those that do not run what is installed; fails if one does not stay.
start() {
    local service version
    systemctl enable --quiet "$@" || return
    for service in "$@"; do
        version=$(version_of "$service")
        if systemctl is-active --quiet "$service" &&
            [[ $version == "$(cat "$STARTED/$service" 2>/dev/null)" ]]; then
            step "$service has not changed"
            continue
        fi
        step "Starting $service"
        rm -f "$STARTED/$service"
        systemctl restart "$service" 2>/dev/null && echo "$version" >"$STARTED/$service"
    done
    sleep 3
    for service in "$@"; do
        systemctl is-active --quiet "$service" || {
            step "$service does not run. Its log ends:"
            journalctl --quiet --no-pager --unit="$service" --output=cat --lines=10 | sed 's/^/  /'
            return 1
        }
    done
}

# go_back RELEASE SERVICE...: returns to the version before, if there was one; ends with status 1.
go_back() {
    local previous=$1
    consequence="What does not run is tried again every 5 s: see journalctl --unit=SERVICE."
    if [[ -n $previous && ! $previous -ef $INSTALLED ]]; then
        step "Going back to the version before"
        switch_to "$@"
        shift
        start "$@" && consequence="The version before runs."
    fi
    exit 1
}

main "$@"
