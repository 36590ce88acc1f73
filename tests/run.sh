#!/usr/bin/env bash
# Installs what the tests need, checks the code, and runs the tests.
# Usage: tests/run.sh [PYTEST_ARGUMENT...]
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
source demo/setup.sh

need_programs mosquitto mosquitto_sub influxd victoria-metrics shellcheck debootstrap curl jq \
    chromium certutil nginx openssl pg_ctlcluster redis-server node npm
make_venv .venv-tests tests/requirements.txt requirements.txt demo/requirements.txt
make_venv .venv-thingsboard integrations/thingsboard/requirements.txt
make_node_modules integrations/node-red
make_node_modules tests/grafana

python=.venv-tests/bin/python
"$python" -m ruff check --quiet
"$python" -m ruff format --check --quiet
"$python" -m mypy --strict .
find . \( -name '.venv*' -o -name node_modules \) -prune -o \( -name '*.sh' -o -path './.ci/run' \) -type f \
    -exec shellcheck --external-sources {} +
exec "$python" -m pytest "$@"
