#!/usr/bin/env bash
# Makes ChirpStack's role and database in PostgreSQL, and repairs what is not as it should be.
# Usage: sudo ./database.sh [--version 3|4]
#
# Called again it changes nothing. Roles get passwords of their own, kept in the file of secrets
# that configure.sh fills in, and neither shown nor given to a program as an argument. $PGPORT and
# $PGHOST (a socket's folder) say which server is meant, as for psql.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
source integrations/chirpstack/common.sh

main() {
    local version=4
    if (($# == 2)) && [[ $1 == --version ]]; then
        version=$2
    elif (($#)); then
        usage
    fi
    # https://www.chirpstack.io/docs/chirpstack/requirements.html, and for version 3
    # https://www.chirpstack.io/application-server/install/requirements/
    case $version in
        4)
            open_secrets
            provide chirpstack pg_trgm
            ;;
        3)
            open_secrets
            provide chirpstack_as pg_trgm hstore
            provide chirpstack_ns
            ;;
        *) usage ;;
    esac
}

usage() {
    echo "Usage: sudo $0 [--version 3|4]" >&2
    exit 2
}

# provide NAME [EXTENSION...]: a role, and a database of the same name with these extensions.
provide() {
    local name=$1 extension
    shift
    secret "postgresql_$name" >/dev/null
    make_role "$name"
    make_database "$name"
    for extension in "$@"; do
        make_extension "$name" "$extension"
    done
    if ! log_in "$name" 2>/dev/null; then
        set_password "$name"
        log_in "$name" || fail "PostgreSQL does not let $name in with the password of $SECRETS."
    fi
    echo "Database $name is ready; its password is in $SECRETS."
}

# Each SELECT yields the statement that is needed, if one is, and \gexec runs it.

make_role() {
    as_superuser postgres --set name="$1" <<'END'
SELECT format('CREATE ROLE %I', :'name')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
SELECT format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', rolname)
    || ' NOREPLICATION NOBYPASSRLS'
    FROM pg_roles WHERE rolname = :'name' AND (NOT rolcanlogin OR rolsuper OR rolcreatedb
        OR rolcreaterole OR rolreplication OR rolbypassrls) \gexec
END
}

# UTF-8 whatever the cluster's own encoding, which is SQL_ASCII where Debian was without a locale.
make_database() {
    as_superuser postgres --set name="$1" <<'END'
SELECT format('CREATE DATABASE %1$I OWNER %1$I TEMPLATE template0', :'name')
    || ' ENCODING ''UTF8'' LOCALE ''C.UTF-8'''
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('ALTER DATABASE %1$I OWNER TO %1$I', datname)
    FROM pg_database WHERE datname = :'name' AND pg_get_userbyid(datdba) <> :'name' \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', datname)
    FROM pg_database WHERE datname = :'name' AND has_database_privilege('public', oid, 'CONNECT')
    \gexec
END
}

# make_extension DATABASE EXTENSION
make_extension() {
    as_superuser "$1" --set name="$2" <<'END'
SELECT format('CREATE EXTENSION %I', :'name')
    WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = :'name') \gexec
END
}

# What sets a password must not reach the server's log either.
set_password() {
    as_superuser postgres <<END
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
ALTER ROLE $1 PASSWORD '$(secret "postgresql_$1")' VALID UNTIL 'infinity';
END
}

# log_in NAME: as ChirpStack does it.
log_in() {
    PGPASSWORD=$(secret "postgresql_$1") psql --no-psqlrc --no-password --host 127.0.0.1 \
        --username "$1" --dbname "$1" --command '' >/dev/null
}

# as_superuser DATABASE [PSQL_ARGUMENT...] <STATEMENTS
as_superuser() {
    local psql=(psql --username postgres --dbname "$1")
    shift
    ((EUID)) || psql=(runuser --user postgres -- "${psql[@]}")
    # psql complains of a folder where postgres may not be.
    (cd / && "${psql[@]}" --no-psqlrc --no-password --quiet --set ON_ERROR_STOP=1 "$@")
}

main "$@"
