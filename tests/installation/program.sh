# The program, its helpers and the bundled plugins work from wherever the prefix lies.
says 'adamw' tenon plugin list
says '"store": "'"$PREFIX/lib/tenon"'"' tenon plugin list --json
says 'every object as it was installed' tenon plugin verify
says '"possible": true' tenon check --optimizer adamw --adapter lora --quantizer nf4 --json
says '"outcome": "ok"' tenon conformance sgd --check "state round trip" --json
for _ in $(seq 200); do echo "the quick brown fox jumps over the lazy dog"; done >text.txt
says 'planned_bytes' tenon train --model preset:9m --data text.txt --output out --seq-len 32 --batch-size 1 --steps 2 --json
[ "$(wc -l <out/metrics.jsonl)" -eq 2 ]

# An altered object is found, and refused when it is loaded.
cp -a "$PREFIX" altered
for object in altered/lib/tenon/plugins/sgd/*/*.so; do printf 'x' >>"$object"; done
if altered/bin/tenon plugin verify >findings; then exit 1; fi
grep -q 'sgd.*differs from what was installed' findings
refuses 'differs from what was installed' altered/bin/tenon train --model preset:9m --data text.txt --output out2 --optimizer sgd --steps 1
