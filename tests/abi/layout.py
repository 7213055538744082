#!/usr/bin/env python3
"""The layout of the ABI: every struct's size, every field's offset and size, every constant's value, as the C compiler sees them.

  layout.py --check tests/abi/layout-0.9.txt    fails, with the difference, when the headers no longer match the table
  layout.py --write tests/abi/layout-0.9.txt    writes the table; after a release this may only add lines
"""
import argparse
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADERS = ROOT / "abi" / "tenon"


def strip(text):
    """Without comments, preprocessor lines and the C++ linkage block."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"\\\n", " ", text)
    return re.sub(r"^\s*#.*$", "", text, flags=re.M)


def fields(body):
    """Names of the fields in the order of declaration."""
    names = []
    for declaration in body.split(";"):
        declaration = " ".join(declaration.split())
        if not declaration:
            continue
        function = re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", declaration)
        if function:
            names.append(function.group(1))
            continue
        for part in declaration.split(","):
            names.append(re.search(r"(\w+)\s*(\[[^\]]*\]\s*)*$", part).group(1))
    return names


def describe():
    """(structs, constants) by header, in the order of declaration."""
    found = []
    for header in sorted(HEADERS.glob("*.h")):
        text = strip(header.read_text(encoding="utf-8"))
        structs = [(m.group(1), fields(m.group(2))) for m in re.finditer(r"typedef struct (\w+) \{(.*?)\}\s*\1\s*;", text, flags=re.S)]
        constants = []
        for body in re.findall(r"enum \{(.*?)\}", text, flags=re.S):
            constants += re.findall(r"(TN_\w+)\s*=", body)
        for name in re.findall(r"^#define (TN_ABI_\w+|TN_ALIGNMENT) ", header.read_text(encoding="utf-8"), flags=re.M):
            constants.append(name)
        found.append((header.name, structs, constants))
    return found


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
        subprocess.run([compiler, "-std=c11", "-I", str(HEADERS.parent), source, "-o", binary], check=True)
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
        return 0
    golden = options.check.read_text(encoding="utf-8")
    if now == golden:
        return 0
    sys.stdout.writelines(difflib.unified_diff(golden.splitlines(True), now.splitlines(True), str(options.check), "the headers"))
    print(f"\nThe headers differ from {options.check.name}. A released layout only grows at the end; if this change is meant, run layout.py --write.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
