# A vendor's plugin from its source to a run on another user's machine. $1: its folder, $2: its id, then the flags of `tenon train` that use it.
source=$1 id=$2
shift 2
cp -r "$source" source
make -s -C source
says '"conforms": true' tenon conformance "source/build/$id" --json

# The vendor packs and signs; the user meets the package in another home.
HOME=$PWD/vendor tenon plugin keygen example >/dev/null
HOME=$PWD/vendor tenon plugin pack "source/build/$id" --key example --output plugin.tenon >/dev/null
refuses 'whom you do not trust' tenon plugin install plugin.tenon
refuses 'is installed' tenon plugin info "$id"
tenon plugin trust vendor/.config/tenon/keys/example.pub >/dev/null
says 'signed by example' tenon plugin install plugin.tenon
says '"owner": "example"' tenon plugin info "$id" --json
if [ -f source/check.c ]; then says '0 of 1000' make -s -C source check; fi

for _ in $(seq 100); do echo "plugins come from anywhere"; done >text.txt
says 'planned_bytes' tenon train --model preset:9m --data text.txt --output out --seq-len 32 --batch-size 1 --steps 3 "$@" --json
[ "$(wc -l <out/metrics.jsonl)" -eq 3 ]

# One byte less in the installed object and it is not loaded again.
object=$(find "$HOME/.local/share/tenon" -name '*.so')
truncate -s -1 "$object"
refuses 'differs from what was installed' tenon train --model preset:9m --data text.txt --output out2 --steps 1 "$@"
