# A technique of ours builds outside of the tree, against the installed SDK alone. $1: its folder.
mkdir source
cp "$1"/*.cpp "$1"/manifest.json source/
rm -f source/test*.cpp
id=$(basename "$1")
cat >source/CMakeLists.txt <<EOF
cmake_minimum_required(VERSION 3.22)
project(outside CXX)
find_package(Tenon 0.9 REQUIRED)
tenon_plugin($id SOURCES $id.cpp)
EOF
"$CMAKE" -S source -B build -DCMAKE_CXX_COMPILER="$CXX" -DTENON_CPU_LEVELS=x86-64-v3 >/dev/null
"$CMAKE" --build build >/dev/null
says 'ok' tenon conformance "build/plugins/$id" --check exports
says 'installed' tenon plugin install "build/plugins/$id"
says "$HOME/.local/share/tenon" tenon plugin info "$id"
for _ in $(seq 50); do echo "out of the tree"; done >text.txt
says 'planned_bytes' tenon train --model preset:9m --data text.txt --output out --seq-len 32 --batch-size 1 --steps 1 --optimizer "$id" --json
