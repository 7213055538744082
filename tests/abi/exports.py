#!/usr/bin/env python3
"""What shared objects show to the world.

  exports.py plugins FOLDER [--constructors]    every *.so below FOLDER: the one symbol tn_plugin_entry, no static constructors (allowed with
                                                --constructors, for sanitizers), no dependency on libtenon, symbols of old enough systems
  exports.py library LIBRARY HEADER RECORDED    exactly the functions that the header declares, and those that were released; --write records them
  exports.py floor FILE...                      programs: symbols of old enough systems
"""
import argparse
import pathlib
import re
import subprocess
import sys

# The oldest system that binaries are promised for: Debian 12.
FLOOR = {"GLIBC": (2, 36), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13)}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def exported(path):
    """Defined dynamic symbols; the name of a version node of a version script is none."""
    rows = [line.split() for line in run("nm", "-D", "--defined-only", str(path)).splitlines()]
    return {row[2].split("@")[0] for row in rows if len(row) == 3 and row[1] != "A"}


def constructors(path):
    """Entries of .init_array beyond the compiler's own: frame_dummy, and libgcc's CPU probe where __builtin_cpu_supports is used. Every source
    file of a GPU object registers its kernels with the vendor's runtime, by a call that neither compiler can defer, and CUDA's has two of its
    own in it."""
    sections, symbols = run("readelf", "-SW", str(path)), run("nm", str(path))
    own = 1 + ("__cpu_indicator_init" in symbols)
    if ".nv_fatbin" in sections:
        own += 2 + symbols.count("__sti____cudaRegisterAll")
    if ".hip_fatbin" in sections:
        own += len(re.findall(r"\b__hip_module_ctor", symbols))
    for line in sections.splitlines():
        match = re.search(r"\.init_array\s+INIT_ARRAY\s+\S+\s+\S+\s+([0-9a-f]+)", line)
        if match:
            return int(match.group(1), 16) // 8 - own
    return 0


def too_new(path):
    found = set()
    for name, version in re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI)_([0-9.]+)", run("readelf", "-VW", str(path))):
        if tuple(map(int, version.split("."))) > FLOOR[name]:
            found.add(f"{name}_{version}")
    return sorted(found)


def check_plugin(path, allow_constructors):
    problems = []
    symbols = exported(path)
    if symbols != {"tn_plugin_entry"}:
        problems.append(f"exports {', '.join(sorted(symbols)) or 'nothing'}; only tn_plugin_entry may be seen (link with plugins/exports.map)")
    if not allow_constructors and constructors(path) > 0:
        problems.append(f"has {constructors(path)} static constructors; nothing may run before negotiation")
    if "libtenon" in run("readelf", "-dW", str(path)):
        problems.append("needs libtenon; a plugin depends on the headers alone")
    if too_new(path):
        problems.append(f"needs {', '.join(too_new(path))}, newer than the oldest supported system has")
    return [f"{path}: {problem}" for problem in problems]


def check_library(path, header, recorded):
    declared = set(re.findall(r"^TN_API .*?\b(tn_\w+)\(", header.read_text(encoding="utf-8"), flags=re.M))
    released = set(recorded.read_text(encoding="utf-8").split())
    symbols = exported(path)
    return [f"{path}: {name} is declared but not exported" for name in sorted(declared - symbols)] + [
        f"{path}: {name} is exported but not declared" for name in sorted(symbols - declared)] + [
        f"{path}: {name} was released and is gone; a function of an ABI stays" for name in sorted(released - symbols)] + [
        f"{path}: {name} is not in {recorded.name}; add it with `exports.py library … --write`" for name in sorted(symbols - released)]


def check_floor(path):
    return [f"{path}: needs {version}, newer than the oldest supported system has" for version in too_new(path)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    plugins = verbs.add_parser("plugins")
    plugins.add_argument("folder", type=pathlib.Path)
    plugins.add_argument("--constructors", action="store_true")
    library = verbs.add_parser("library")
    library.add_argument("path", type=pathlib.Path)
    library.add_argument("header", type=pathlib.Path)
    library.add_argument("recorded", type=pathlib.Path)
    library.add_argument("--write", action="store_true")
    floor = verbs.add_parser("floor")
    floor.add_argument("paths", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    if options.verb == "floor":
        problems = [problem for path in options.paths for problem in check_floor(path)]
    elif options.verb == "library":
        if options.write:
            options.recorded.write_text("".join(f"{name}\n" for name in sorted(exported(options.path))), encoding="utf-8")
        problems = check_library(options.path, options.header, options.recorded) + check_floor(options.path)
    else:
        objects = sorted(options.folder.rglob("*.so"))
        problems = [problem for path in objects for problem in check_plugin(path, options.constructors)]
        print(f"{len(objects)} objects looked at")
        if not objects:
            problems.append(f"{options.folder}: there is no plugin object here")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
