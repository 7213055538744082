#!/usr/bin/env bash
# install.sh CMAKE BUILD PREFIX: installs the build beside PREFIX and moves it there, so that nothing may depend on where it was put.
set -euo pipefail
rm -rf "$3" "$3.first"
"$1" --install "$2" --prefix "$3.first" >/dev/null
mv "$3.first" "$3"
