#!/bin/sh
# Installs what tests of pages drive and ask: Chromium, Firefox, axe-core. Says so where something cannot be had.
cd "$(dirname "$0")/../.." || exit 1
AXE=4.14.1 AXE_SHA256=29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c

missing=""
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="chromium"
command -v firefox-esr >/dev/null || command -v firefox >/dev/null || missing="$missing firefox-esr"
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >/dev/null && missing=""
  fi
  [ -z "$missing" ] || echo "tests of pages need: apt-get install $missing (without it they are skipped)" >&2
fi

if [ ! -s .cache/axe.min.js ] && command -v npm >/dev/null; then
  mkdir -p .cache
  (cd .cache && npm pack --silent "axe-core@$AXE" >/dev/null && tar xzf "axe-core-$AXE.tgz" --strip-components=1 package/axe.min.js)
  rm -f ".cache/axe-core-$AXE.tgz"
  echo "$AXE_SHA256  .cache/axe.min.js" | sha256sum --check --quiet || rm -f .cache/axe.min.js
fi
[ -s .cache/axe.min.js ] || echo "tests of accessibility need axe-core: install npm, then tests/helpers/browsers.sh (without it they are skipped)" >&2
exit 0
