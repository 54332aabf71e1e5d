#!/bin/sh
# Puts promtool into a folder, out of Debian's package of Prometheus without installing that: it would start a server.
#
#   tools.sh FOLDER
set -eu
to=$1/bin

if [ -x "$to/promtool" ]; then
  echo "promtool is there"
elif command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  chmod 755 "$temporary"
  cd "$temporary"
  apt-get download -qq prometheus >/dev/null 2>&1 || { [ "$(id -u)" != 0 ] || apt-get update -qq; apt-get download -qq prometheus; }
  dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
  mkdir -p "$to"
  mv usr/bin/promtool "$to/promtool"
  "$to/promtool" --version | head -n 1
else
  echo "apt-get is not here: promtool is left out, and so are the tests of the alerts"
fi

# For `make test-image`.
if ! command -v debootstrap >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap >/dev/null \
    || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap >/dev/null; }
  echo "debootstrap"
fi
