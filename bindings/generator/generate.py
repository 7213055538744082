#!/usr/bin/env python3
"""Writes the foreign-function layers of the bindings from the headers of abi/tenon.

  generate.py --write    writes them
  generate.py --check    fails, naming the file, when one is not what the headers say
"""
import argparse
import difflib
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "abi"))

import emit_go  # noqa: E402
import emit_julia  # noqa: E402
import emit_python  # noqa: E402
import emit_rust  # noqa: E402
import headers  # noqa: E402

LAYERS = {
    "bindings/python/tenon/_ffi.py": emit_python.emit,
    "bindings/rust/tenon-sys/src/generated.rs": emit_rust.emit,
    "bindings/go/internal/ffi/generated.go": emit_go.emit,
    "bindings/julia/Tenon/src/ffi.jl": emit_julia.emit,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true")
    action.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = headers.read()
    stale = 0
    for name, emit in LAYERS.items():
        path, text = ROOT / name, emit(found)
        if options.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        written = path.read_text(encoding="utf-8") if path.exists() else ""
        if written != text:
            stale += 1
            sys.stdout.writelines(list(difflib.unified_diff(written.splitlines(True), text.splitlines(True), name, "the headers"))[:60])
            print(f"{name} is stale or was edited by hand: run bindings/generator/generate.py --write")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
