#!/bin/bash
# The environment contract of the official PostgreSQL image, as far as a development cluster needs it:
# POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB, PGDATA, /docker-entrypoint-initdb.d.
set -euo pipefail

[ $# -eq 0 ] && set -- postgres
[ "${1:0:1}" = '-' ] && set -- postgres "$@"
[ "$1" = postgres ] || exec "$@"

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
password=${POSTGRES_PASSWORD:-}
[ -n "${POSTGRES_PASSWORD_FILE:-}" ] && password=$(<"$POSTGRES_PASSWORD_FILE")
unset POSTGRES_PASSWORD

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "$password" ]; then
        echo "error: the database is empty and no password is given: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2
        exit 1
    fi
    mkdir -p "$PGDATA"
    chmod 00700 "$PGDATA" 2>/dev/null || true
    # A power cut in the middle of initdb leaves files without PG_VERSION: begin again.
    find "$PGDATA" -mindepth 1 -delete 2>/dev/null || rm -rf "${PGDATA:?}"/*
    initdb --username="$user" --pwfile=<(printf '%s\n' "$password") --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256
    printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"

    # Only on the local socket while the scripts run, so that nobody meets a half-made database.
    pg_ctl --pgdata="$PGDATA" --options="-c listen_addresses='' -c unix_socket_directories=/var/run/postgresql" --wait start
    query() { psql -v ON_ERROR_STOP=1 --no-psqlrc --host=/var/run/postgresql --username="$user" "$@"; }
    if [ "$database" != postgres ]; then
        query --dbname=postgres -v database="$database" <<<'CREATE DATABASE :"database"'
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        case "$file" in
        *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
        *.sql) query --dbname="$database" --file="$file" ;;
        esac
    done
    pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
fi

shift
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql "$@"
