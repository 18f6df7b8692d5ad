#!/bin/sh
# Run once by the postgres image, in an empty data folder: a database and a login for Airflow, and for results.
set -eu
psql --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  --set airflow="$AIRFLOW_DB_PASSWORD" --set results="$BATCHINFER_DB_PASSWORD" <<'SQL'
CREATE ROLE airflow LOGIN PASSWORD :'airflow';
CREATE DATABASE airflow OWNER airflow;
CREATE ROLE batchinfer LOGIN PASSWORD :'results';
CREATE DATABASE results OWNER batchinfer;
REVOKE CONNECT ON DATABASE airflow, results FROM PUBLIC;
SQL
