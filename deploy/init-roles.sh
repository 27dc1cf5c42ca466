#!/bin/sh
# Makes Callora's roles when the PostgreSQL container starts on an empty volume.
set -eu
psql --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --set owner_password="$CALLORA_OWNER_PASSWORD" \
  --set app_password="$CALLORA_APP_PASSWORD" \
  --set worker_password="$CALLORA_WORKER_PASSWORD" \
  --file /roles.sql
