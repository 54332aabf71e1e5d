#!/bin/sh
# Installs nginx and chromium, which a few tests put around the proxy, where that needs nothing but a command: as root, on
# Debian, when they are missing. It never fails: without them those tests are skipped and say so.
LONGEST_SECONDS=${LONGEST_SECONDS:-600}

missing=
for program in nginx chromium; do
  PATH="$PATH:${SBIN-/usr/sbin}" command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || { echo "nginx, chromium: here"; exit 0; }

leave() {
  echo "$1: the tests that need$missing are skipped"
  exit 0
}
[ -e /etc/debian_version ] && command -v apt-get >/dev/null || leave "this is not Debian"
[ "$(id -u)" = 0 ] || leave "this is not root"

policy=${POLICY:-/usr/sbin/policy-rc.d}
if [ ! -e "$policy" ]; then # the tests start an nginx of their own; the package's must not take port 80
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
  trap 'exit 0' HUP INT TERM
fi
export DEBIAN_FRONTEND=noninteractive
# A lock that another apt-get holds, and a server that does not answer, are waited for, but not for ever.
apt="timeout $LONGEST_SECONDS apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::Retries=1 -o Acquire::http::Timeout=20"
$apt update >/dev/null 2>&1
# shellcheck disable=SC2086 # words
$apt install --yes --no-install-recommends $missing >/dev/null 2>&1 || leave "apt-get could not install$missing"
echo "installed:$missing"
