#!/bin/sh
# Installs the browser that tests of pages drive, where it is missing and can be had; says so where it cannot.
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "tests of pages need Chromium: apt-get install chromium (without it they are skipped)" >&2
