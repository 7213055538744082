# A plugin that `tenon new-plugin` wrote builds and conforms as it is. $1: kind, $2: language. The name has what names may have.
kind=$1 language=$2
id=com.example.my-$kind-2
says "a working $kind" tenon new-plugin "$kind" "$id" --language "$language" --output made
refuses 'exists already' tenon new-plugin "$kind" "$id" --language "$language" --output made
if [ "$language" = c++ ]; then
  "$CMAKE" -S made -B made/out -DCMAKE_CXX_COMPILER="$CXX" -DTENON_CPU_LEVELS=x86-64-v3 >/dev/null
  "$CMAKE" --build made/out >/dev/null
  sealed=made/out/plugins/$id
else
  make -s -C made
  sealed=made/build/$id
fi
tenon conformance "$sealed" >report || { cat report >&2; false; }
says 'installed' tenon plugin install "$sealed"
says '"kind": "'"$kind"'"' tenon plugin info "$id" --json
