"""What the comparisons share: a process for each side, the check that comes first, turns, memory, and rows.

A comparison is a script that calls `main(doc, sides, cases)`. A `Side` lives in a process of its own, so that neither its libraries, its
threads nor its memory touch another's. For every case: all sides prepare the same work and hand over *evidence* (arrays: updated
weights, codes, losses); the case compares Tenon's with each peer's, and a peer whose evidence differs gets no time; then the sides take
turns, and medians are compared. A side that fails is a row that says why.

Rows are lines of JSON on standard output; people's lines go to standard error. `run` collects them.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

from sides import Failed, Side, Worker, serve  # noqa: F401: Side is for the scripts

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


FILL = 0.1  # seconds: runs that are shorter are repeated within a turn


class Mismatch(Exception):
    """The two sides do not compute the same thing."""


class Case:
    """One row of the table. work / seconds is shown in `unit`; work None: seconds. bytes and flops (with their type) make the bound:
    what the work must at least move and compute. `compare(tenon's evidence, a peer's)` answers one phrase or raises Mismatch; {peer: function}
    where peers differ. aim: the ratio to reach; aim_memory: Tenon's share of the peer's memory; aim_seconds: where there is no peer;
    aim_limit: the share of the limit to reach."""

    def __init__(self, name, compare, work=None, unit="s", bytes=0, flops=0, flops_type="f32", repeat=None, sides=None, aim=None, aim_memory=None,
                 aim_seconds=None, aim_limit=None, warmup=1, **settings):
        self.name, self.compare, self.work, self.unit = name, compare, work, unit
        self.bytes, self.flops, self.flops_type = bytes, flops, flops_type
        self.repeat, self.sides, self.warmup, self.settings = repeat, sides, warmup, settings
        self.aim, self.aim_memory, self.aim_seconds, self.aim_limit = aim, aim_memory, aim_seconds, aim_limit


def arguments(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=str(ROOT / "build"), help="tenon's build folder")
    p.add_argument("--model", help="SmolLM2 as GGUF; where missing, examples/fetch-model gets it")
    p.add_argument("--text", default=str(ROOT / "examples" / "texts" / "us-constitution.txt"))
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--repeat", type=int, default=9, help="measurements of each side at the most; the median counts")
    p.add_argument("--seconds", type=float, default=20, help="per case: no further turn begins after this, once each side has three")
    p.add_argument("--limit", type=float, default=300, help="seconds that a side may take for one answer")
    p.add_argument("--quick", action="store_true", help="small sizes, few turns: shows that the comparison works, measures nothing")
    p.add_argument("--only", help="cases whose name contains this")
    p.add_argument("--limits", help="JSON of `limits.py`: what this machine can do")
    p.add_argument("--log", help="where the sides' own messages go")
    p.add_argument("--side", help=argparse.SUPPRESS)
    return p


def spread(times):
    """Half of the middle half's width over the median: 0.02 is ±2%."""
    if len(times) < 3:
        return None
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / statistics.median(times)


def say(text):
    print(text, file=sys.stderr, flush=True)


def readable(value, unit):
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.4g} {unit}"


def figure(case, times, peak):
    median = statistics.median(times)
    value = case.work / median if case.work else median
    return {"value": value, "seconds": median, "spread": spread(times), "turns": len(times), "peak_bytes": peak}


def take_turns(workers, case, args):
    """Seconds of each side's runs. A side that fails leaves; what it said is kept."""
    times, failures = {name: [] for name in workers}, {}
    repeat = 2 if args.quick else min(case.repeat or args.repeat, args.repeat)
    begin = time.monotonic()
    for turn in range(case.warmup + repeat):
        if turn >= case.warmup + min(3, repeat) and time.monotonic() - begin > args.seconds:
            break
        for name, worker in workers.items():
            if name in failures:
                continue
            try:
                seconds = worker.ask(do="run", fill=FILL)["seconds"]
                if turn >= case.warmup:
                    times[name].append(seconds)
            except Failed as e:
                failures[name] = str(e)
    return times, failures


def bound_seconds(case, limits):
    flops = limits.get(f"{case.flops_type}_operations_per_second")
    bound = [case.bytes / limits["bytes_per_second"]] if case.bytes and limits.get("bytes_per_second") else []
    return max(bound + ([case.flops / flops] if case.flops and flops else []), default=None)


def compare_case(case, names, workers, versions, failed, args, limits):
    """The row of one case."""
    import numpy as np
    row = {"case": case.name, "unit": case.unit, "aim": case.aim, "aim_memory": case.aim_memory, "aim_seconds": case.aim_seconds,
           "aim_limit": case.aim_limit, "peers": []}
    wanted = [n for n in names if case.sides is None or n == "tenon" or n in case.sides]
    problems = {n: failed[n] for n in wanted if n in failed}
    with tempfile.TemporaryDirectory(prefix="tenon-peers-") as folder:
        for name in wanted:
            if name in problems:
                continue
            try:
                workers[name].ask(do="prepare", folder=folder, side=name, name=case.name, settings=case.settings)
            except Failed as e:
                problems[name] = str(e)
        checks = {}
        if "tenon" not in problems:
            ours = dict(np.load(f"{folder}/tenon.npz"))
            for name in wanted:
                if name == "tenon" or name in problems:
                    continue
                try:
                    compare = case.compare[name] if isinstance(case.compare, dict) else case.compare
                    checks[name] = compare(ours, dict(np.load(f"{folder}/{name}.npz")))
                except Mismatch as e:
                    problems[name] = f"computes something else: {e}"
        ready = {n: workers[n] for n in wanted if n not in problems and n not in failed}
        times, late = take_turns(ready, case, args)
        problems.update(late)
        peaks = {}
        for name in ready:
            try:
                peaks[name] = workers[name].ask(do="finish")["peak"]
            except Failed as e:
                problems.setdefault(name, str(e))
    figures = {n: figure(case, t, peaks.get(n)) for n, t in times.items() if t and n not in problems}
    row["tenon"] = {**figures.get("tenon", {}), **({"problem": problems["tenon"]} if "tenon" in problems else {})}
    bound = bound_seconds(case, limits)
    if bound and "tenon" in figures:
        row["share_of_limit"] = bound / figures["tenon"]["seconds"]
    for name in wanted:
        if name == "tenon":
            continue
        peer = {"name": name, "versions": versions.get(name, {}), "check": checks.get(name), **figures.get(name, {})}
        if name in problems:
            peer["problem"] = problems[name]
        elif "tenon" in figures:
            peer["ratio"] = peer["seconds"] / figures["tenon"]["seconds"]
            if peer.get("peak_bytes") and figures["tenon"].get("peak_bytes"):
                peer["memory_ratio"] = figures["tenon"]["peak_bytes"] / peer["peak_bytes"]
        row["peers"].append(peer)
    return row


def describe(row):
    """A row as one or more lines for people."""
    ours = row["tenon"]
    mine = readable(ours["value"], row["unit"]) if "value" in ours else "failed: " + ours.get("problem", "no figure")
    lines = []
    if not row["peers"]:
        return [f"{row['case']:<44} tenon {mine}" + (f", aim {readable(row['aim_seconds'], 's')}" if row.get("aim_seconds") else "")]
    for p in row["peers"]:
        if p.get("problem"):
            theirs = p["problem"]
        elif "ratio" in p:
            memory = f", memory {p['memory_ratio']:.2f}x" if "memory_ratio" in p else ""
            theirs = f"{readable(p['value'], row['unit'])}, ratio {p['ratio']:.2f}{memory} ({p['check']})"
        else:
            theirs = "no figure"
        lines.append(f"{row['case']:<44} tenon {mine:<22} {p['name']}: {theirs}")
    return lines


def emit(row, args):
    row.setdefault("comparison", pathlib.Path(sys.argv[0]).stem)
    row["quick"] = args.quick
    row["load_average"] = os.getloadavg()[0]
    print(json.dumps(row), flush=True)
    for line in describe(row):
        say(line)


def main(doc, sides, cases, parser=None, after=None):
    """sides: {name: Side class}, in the order in which they prepare; one of them is "tenon". cases: function(args) → list of Case.
    after(rows, args): more rows that follow from these."""
    args = (parser or arguments(doc)).parse_args()
    if args.side:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a library prints is no answer
        side = sides[args.side]()
        side.args = args
        return serve(side, args, answers)
    limits = json.loads(pathlib.Path(args.limits).read_text()) if args.limits else {}
    wanted = [c for c in cases(args) if not args.only or args.only in c.name]
    with open(args.log or os.devnull, "a", encoding="utf-8") as log:
        workers, versions, failed, rows = {}, {}, {}, []
        try:
            for name in sides:
                workers[name] = Worker(name, args, log)
            for name in sides:
                try:
                    versions[name] = workers[name].ask(do="versions")["versions"]
                except Failed as e:
                    failed[name] = str(e)
            for case in wanted:
                rows.append(compare_case(case, list(sides), workers, versions, failed, args, limits))
                emit(rows[-1], args)
                for name, worker in workers.items():  # one that died does not take the next case with it
                    if name not in failed and (worker.process.poll() is not None or sides[name].once):
                        worker.stop()
                        workers[name] = Worker(name, args, log)
                        workers[name].ask(do="versions")
        finally:
            for worker in workers.values():
                worker.stop()
        if after:
            after(rows, args)


# ---- what cases are made of ----

def relative(a, b):
    """|a − b| / |b| over all elements."""
    import numpy as np
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    scale = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / scale if scale else float(np.linalg.norm(a))


def all_close(tolerance, what):
    """A comparison of every array that both sides handed over, by relative distance."""

    def compare(ours, theirs):
        shared = sorted(set(ours) & set(theirs))
        if not shared:
            raise Mismatch("nothing to compare was handed over")
        worst = 0.0
        for key in shared:
            if ours[key].shape != theirs[key].shape:
                raise Mismatch(f"{key} has shape {ours[key].shape}, the peer's {theirs[key].shape}")
            distance = relative(ours[key], theirs[key])
            if not distance <= tolerance:
                raise Mismatch(f"{key} differs by {distance:.2g} relative, more than {tolerance:g}")
            worst = max(worst, distance)
        return f"{what} within {worst:.1g}"

    return compare
