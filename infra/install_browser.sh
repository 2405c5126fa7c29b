#!/usr/bin/env bash
# Debian's Chromium, which the tests of the pages open. Does nothing where it is there already.
set -euo pipefail
if command -v chromium >/dev/null; then
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "no chromium, and no apt-get to install it with: the tests of the pages will be skipped" >&2
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "no chromium: 'apt-get install chromium' as root lets the tests of the pages run; they will be skipped" >&2
  exit 0
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
chromium --version
