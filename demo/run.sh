#!/usr/bin/env bash
# Runs the whole chain on this machine against simulated hardware.
# Usage: demo/run.sh [--seconds N]
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
source demo/setup.sh

# The last three are for the commands that the demo suggests.
need_programs mosquitto influxd mosquitto_sub influx curl
make_venv .venv requirements.txt
exec .venv/bin/python -m demo.run "$@"
