#!/usr/bin/env python3
"""What GPU objects hold: machine code for the architectures they claim (where they launch kernels at all), and nothing undefined beyond their
vendor's runtime.

  gpu_objects.py FOLDER [--cuda 80,90] [--hip gfx90a] [--over-cuda 90]    every *.cuda.so and *.hip.so below FOLDER, and every *.hip-over-cuda.so,
                                                                            which is HIP's source made by nvcc; at least one of each kind that is named.
                                                                            With --over-cuda alone the *.hip.so are such objects
"""
import argparse
import pathlib
import re
import struct
import subprocess
import sys

SYSTEM = {"libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def section(path, name):
    """The bytes of a section, or None."""
    for line in run("readelf", "-SW", str(path)).splitlines():
        match = re.search(r"\]\s+" + re.escape(name) + r"\s+\S+\s+[0-9a-f]+\s+([0-9a-f]+)\s+([0-9a-f]+)", line)
        if match:
            offset, size = (int(x, 16) for x in match.groups())
            with path.open("rb") as f:
                f.seek(offset)
                return f.read(size)
    return None


def cuda_code(data):
    """{"sm_90", "compute_90"}: of each fat binary in the section, entries of a kind (1 = PTX, 2 = machine code) for a capability."""
    found, at = set(), 0
    while (at := data.find(b"\x50\xed\x55\xba", at)) >= 0:
        header, size = struct.unpack_from("<HQ", data, at + 6)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", data, entry)
            found.add(("compute_" if kind == 1 else "sm_") + str(struct.unpack_from("<I", data, entry + 28)[0]))
            entry += entry_header + payload
        at = end
    return found


def hip_code(data):
    """{"gfx90a"}: the targets of each bundle that has code."""
    found, at = set(), 0
    while (at := data.find(b"__CLANG_OFFLOAD_BUNDLE__", at)) >= 0:
        position = at + 32
        for _ in range(struct.unpack_from("<Q", data, at + 24)[0]):
            _, size, length = struct.unpack_from("<QQQ", data, position)
            triple = data[position + 24:position + 24 + length].decode()
            position += 24 + length
            if triple.startswith("hip") and size > 0:
                found.add(triple.rsplit("-", 1)[-1])
        at = position
    return found


def launches(path):
    """A technique that only chooses what another one updates has no kernels."""
    return re.search(r"(cuda|hip)LaunchKernel", run("nm", str(path)) + run("nm", "-D", str(path))) is not None


def cuda_claims(text):
    """"80,90": machine code for both, PTX of the last."""
    architectures = [a for a in text.split(",") if a]
    return {f"sm_{a}" for a in architectures} | {f"compute_{a}" for a in architectures[-1:]}


def check(path, claimed, found, runtime):
    problems = []
    missing = claimed - found
    if missing and (found or launches(path)):
        problems.append(f"holds no code for {', '.join(sorted(missing))}, only for {', '.join(sorted(found)) or 'nothing'}")
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-dW", str(path))))
    if strange := {n for n in needed - SYSTEM if not re.fullmatch(runtime, n)}:
        problems.append(f"needs {', '.join(sorted(strange))}")
    linked = subprocess.run(["ldd", "-r", str(path)], capture_output=True, text=True)
    if undefined := re.findall(r"undefined symbol: (\S+)", linked.stdout + linked.stderr):
        problems.append(f"leaves {', '.join(undefined[:5])} undefined")
    return [f"{path}: {p}" for p in problems]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--cuda", default="")
    parser.add_argument("--hip", default="")
    parser.add_argument("--over-cuda", default="")
    options = parser.parse_args()
    problems, looked_at = [], {"cuda": 0, "hip": 0, "over-cuda": 0}
    for path in sorted(options.folder.rglob("*.so")):
        if path.name.endswith(".cuda.so"):
            kind, claimed = "cuda", cuda_claims(options.cuda)
        elif path.name.endswith(".hip-over-cuda.so") or (path.name.endswith(".hip.so") and options.over_cuda and not options.hip):
            kind, claimed = "over-cuda", cuda_claims(options.over_cuda)
        elif path.name.endswith(".hip.so"):
            kind, claimed = "hip", {a for a in options.hip.split(",") if a}
        else:
            continue
        looked_at[kind] += 1
        if kind == "hip":
            problems += check(path, claimed, hip_code(section(path, ".hip_fatbin") or b""), r"libamdhip64\.so\.\d+")
        else:
            problems += check(path, claimed, cuda_code(section(path, ".nv_fatbin") or b""), r"$^")
    for kind, claimed in (("cuda", options.cuda), ("hip", options.hip), ("over-cuda", options.over_cuda)):
        if claimed and not looked_at[kind]:
            problems.append(f"{options.folder}: there is no {kind} object here")
    print(f"{looked_at['cuda']} CUDA and {looked_at['hip']} HIP objects, {looked_at['over-cuda']} of HIP over CUDA looked at")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
