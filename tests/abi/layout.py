#!/usr/bin/env python3
"""The layout of the ABI: every struct's size, every field's offset and size, every constant's value, as the C compiler sees them.

  layout.py --check tests/abi/layout-0.9.txt    fails, with the difference, when the headers no longer match the table
  layout.py --write tests/abi/layout-0.9.txt    writes the table and the bindings' generated layers;
                                                after a release the table may only gain lines
"""
import argparse
import difflib
import os
import pathlib
import subprocess
import sys
import tempfile

import headers


def describe():
    """(header, structs with their fields' names, constants) in the order of declaration."""
    return [(h.name, [(s.name, [f.name for f in s.fields]) for s in h.structs], [name for name, _ in h.constants]) for h in headers.read()]


def program(found):
    lines = ["#include <stdio.h>", "#include <stddef.h>"]
    lines += [f'#include "tenon/{name}"' for name, _, _ in found]
    lines += ["int main(void) {"]
    for name, structs, constants in found:
        lines.append(f'  puts("# {name}");')
        for struct, members in structs:
            lines.append(f'  printf("struct {struct} size %zu align %zu\\n", sizeof({struct}), _Alignof({struct}));')
            for member in members:
                lines.append(f'  printf("  {member} offset %zu size %zu\\n", offsetof({struct}, {member}), sizeof((({struct}*)0)->{member}));')
        for constant in constants:
            lines.append(f'  printf("{constant} = %lld\\n", (long long)({constant}));')
        if name == "status.h":
            lines.append('#define LINE(status, code, message) printf(#status " = %d\\n", code);')
            lines.append("  TN_STATUS_LIST(LINE)")
    return "\n".join(lines + ["  return 0;", "}", ""])


def table(compiler):
    with tempfile.TemporaryDirectory() as folder:
        source, binary = os.path.join(folder, "layout.c"), os.path.join(folder, "layout")
        pathlib.Path(source).write_text(program(describe()), encoding="utf-8")
        subprocess.run([compiler, "-std=c11", "-I", str(headers.HEADERS.parent), source, "-o", binary], check=True)
        return subprocess.run([binary], check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", default="cc")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", type=pathlib.Path)
    action.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    now = table(options.cc)
    if options.write:
        options.write.write_text(now, encoding="utf-8")
        generator = headers.ROOT / "bindings" / "generator" / "generate.py"
        return subprocess.run([sys.executable, str(generator), "--write"]).returncode
    golden = options.check.read_text(encoding="utf-8")
    if now == golden:
        return 0
    sys.stdout.writelines(difflib.unified_diff(golden.splitlines(True), now.splitlines(True), str(options.check), "the headers"))
    print(f"\nThe headers differ from {options.check.name}. A released layout only grows at the end; if this change is meant, run layout.py --write.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
