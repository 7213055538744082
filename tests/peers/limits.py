"""What this machine can do: bandwidth by copy and triad, products of large matrices in f32 and bf16, each by whoever is fastest. JSON.

    limits.py --build BUILD [--quick]
"""
import json
import statistics
import sys
import time

import harness
from tenon_side import tenon


def measured(work, action, turns=7):
    action()
    times = []
    for _ in range(turns):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return work / statistics.median(times)


def main():
    args = harness.arguments(__doc__).parse_args()
    figures = tenon(args, "bench", "device", *(["--quick"] if args.quick else []))["figures"]
    best = {"bytes_per_second": {"tenon copy": figures["copy_gigabytes_per_second"] * 1e9, "tenon triad": figures["triad_gigabytes_per_second"] * 1e9},
            "f32_operations_per_second": {"tenon, 1024": figures["gemm_f32_gigaflops"] * 1e9}, "bf16_operations_per_second": {}}
    if "gemm_bf16_gigaflops" in figures:
        best["bf16_operations_per_second"]["tenon, 1024"] = figures["gemm_bf16_gigaflops"] * 1e9
    try:
        import torch
        torch.set_num_threads(args.threads)
        n, side = 1 << (20 if args.quick else 25), 256 if args.quick else 2048
        x, y, z = torch.zeros(n), torch.zeros(n), torch.zeros(n)
        best["bytes_per_second"]["torch copy"] = measured(8 * n, lambda: y.copy_(x))
        best["bytes_per_second"]["torch triad"] = measured(12 * n, lambda: torch.add(x, y, alpha=0.5, out=z))
        for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
            best[f"{name}_operations_per_second"][f"torch, {side}"] = measured(2 * side ** 3, lambda a=a, b=b: a @ b, 5)
    except ImportError:
        print("without torch: limits by tenon alone", file=sys.stderr)
    out = {"ways": best} | {key: max(ways.values()) for key, ways in best.items() if ways}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
