# A host program in C over libtenon, found by pkg-config and by CMake.
"$CC" -std=c11 -Wall -Werror $(pkg-config --cflags tenon) "$HERE/host.c" $(pkg-config --libs tenon) -Wl,-rpath,"$PREFIX/lib" -o host
says 'optimizer adamw' ./host
readelf -d host | grep -q 'libtenon\.so\.0\]'
"$CMAKE" -S "$HERE" -B build -DCMAKE_C_COMPILER="$CC" >/dev/null
"$CMAKE" --build build >/dev/null
says 'optimizer adamw' build/host
