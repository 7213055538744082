"""What the comparison scripts share: the command line, timing, and the table with tenon's figures beside the peer's.

A figure's key ends in its unit. `tenon bench NAME --json` prints {"figures": {key: number, ...}}; equal keys are compared. A ratio is
always tenon's advantage: above 1 means faster or smaller.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

SMALLER_IS_BETTER = ("_seconds", "_bytes")


def parser(description):
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--tenon", help="the tenon binary")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--repeat", type=int, default=7, help="measurements of each figure; the median counts")
    p.add_argument("--quick", action="store_true", help="small sizes, few repeats: shows that the script works, measures nothing")
    return p


def interleaved(actions, repeat, warmup=2):
    """Median seconds of each action. The actions take turns, so that other load on the machine falls on all of them."""
    times = {name: [] for name in actions}
    for turn in range(warmup + repeat):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def ask_tenon(binary, name, threads, flags):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run([binary, "bench", name, "--json", *flags], stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"tenon bench {name} ended with {done.returncode}")
    return json.loads(done.stdout)["figures"]


def report(name, figures, versions, args, flags=(), **conditions):
    """One JSON line, then a table. `flags` are for tenon."""
    quick = ("--quick",) if args.quick else ()
    ours = ask_tenon(args.tenon, name, args.threads, (*flags, *quick)) if args.tenon else {}
    ratios = {}
    for key, peer in figures.items():
        if ours.get(key) and peer:
            ratios[key] = peer / ours[key] if key.endswith(SMALLER_IS_BETTER) else ours[key] / peer
    conditions |= dict(threads=args.threads, load_average=os.getloadavg()[0])
    print(json.dumps(dict(bench=name, peer=figures, tenon=ours, ratio=ratios, versions=versions, conditions=conditions)))
    width = max(map(len, figures))
    print(f"{'figure':{width}}  {'peer':>12}  {'tenon':>12}  {'ratio':>6}")
    for key, peer in figures.items():
        mine = f"{ours[key]:.5g}" if key in ours else "-"
        ratio = f"{ratios[key]:.2f}" if key in ratios else "-"
        print(f"{key:{width}}  {peer:>12.5g}  {mine:>12}  {ratio:>6}")
