# Old plugins on this host and new plugins on this host: one source, built as plugins of other releases of the ABI are. $1: a vendor's folder.
build() { # build NAME SED-SCRIPT: the folder NAME/build/com.example.lion
  cp -r "$source" "$1"
  sed -i -e "$2" "$1/lion.c"
  make -s -C "$1"
}
source=$1
for _ in $(seq 100); do echo "old and new"; done >text.txt
run() { says 'planned_bytes' tenon train --model preset:9m --data text.txt --output "$1" --seq-len 32 --batch-size 1 --steps 3 --optimizer lion --json; }

# As shipped.
build now ''
says '"conforms": true' tenon conformance now/build/com.example.lion --json
tenon plugin install now/build/com.example.lion >/dev/null
run out-now

# An older release: the table ends with what was required then, and the minor version is lower.
build old 's/TN_SIZE_TO(tn_optimizer_api, load)/TN_SIZE_TO(tn_optimizer_api, apply)/; s/\.abi_minor = 9/.abi_minor = 8/; s/"1\.0\.0"/"1.0.1"/'
says '"conforms": true' tenon conformance old/build/com.example.lion --json
says 'installed in place of 1.0.0' tenon plugin install old/build/com.example.lion
run out-old

# A newer release that still speaks to us: the table goes on behind what we know.
build newer 's/static const tn_optimizer_api kApi = {/static const struct { tn_optimizer_api api; void* more[8]; } kApi = {{/; s/TN_SIZE_TO(tn_optimizer_api, load)/& + 64/; s/\.apply = apply};/.apply = apply}, {0}};/; s/"1\.0\.0"/"1.0.2"/'
says '"conforms": true' tenon conformance newer/build/com.example.lion --json
says 'installed in place of 1.0.1' tenon plugin install newer/build/com.example.lion
run out-newer
losses() { grep -o '"loss": *[^,}]*' "$1/metrics.jsonl"; }
[ "$(losses out-old)" = "$(losses out-now)" ] && [ "$(losses out-newer)" = "$(losses out-now)" ]

# One that needs a newer host is refused in its own words, before anything of it is used.
cp -r "$source" needs
sed -i 's/\.abi_minor = 9/.abi_minor = 10/' needs/lion.c
if make -s -C needs 2>refusal; then exit 1; fi
grep -q 'install a matching version' refusal
