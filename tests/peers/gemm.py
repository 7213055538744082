"""The device's matrix products beside oneDNN called alone, by tests/benchmarks: 54 shapes of SmolLM2's training step, medians of turns.

The device's unit tests hold its products to f64; here only time is measured. A ratio of 1 is no overhead.
"""
import pathlib
import re
import subprocess
import sys

import harness

if __name__ == "__main__":
    args = harness.arguments(__doc__).parse_args()
    row = {"case": "matrix products of a step, share of oneDNN alone", "unit": "x", "aim": 0.95, "aim_memory": None, "aim_seconds": None, "peers": [], "tenon": {}}
    program = pathlib.Path(args.build) / "bin" / "benchmark_gemm"
    try:
        if not program.exists():
            subprocess.run(["cmake", "-S", str(harness.ROOT), "-B", args.build, "-DTENON_BENCHMARKS=ON"], stdout=sys.stderr, check=True)
            subprocess.run(["cmake", "--build", args.build, "--target", "benchmark_gemm"], stdout=sys.stderr, check=True)
        done = subprocess.run([str(program)], stdout=subprocess.PIPE, text=True, timeout=max(args.limit, 400), check=True)
        print(done.stdout, file=sys.stderr)
        found = re.search(r"smallest ([\d.]+), median ([\d.]+); (\d+) of (\d+) reach 0.95", done.stdout)
        smallest, median, reached, of = float(found[1]), float(found[2]), int(found[3]), int(found[4])
        row["tenon"] = {"value": median, "spread": None, "turns": of, "peak_bytes": None}
        row["peers"] = [{"name": "oneDNN alone", "versions": {}, "value": 1.0, "ratio": median, "check": f"{reached} of {of} shapes reach 0.95; the worst {smallest:.2f}"}]
    except Exception as e:  # a row says why
        row["tenon"] = {"problem": f"{type(e).__name__}: {e}".split("\n")[0][:300]}
    harness.emit(row, args)
