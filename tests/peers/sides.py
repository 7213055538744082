"""A side of a comparison in a process of its own: what it must offer, the loop that serves it, and the other end."""
import argparse
import json
import os
import pathlib
import select
import subprocess
import sys
import time
import traceback


class Side:
    """One library at work. The methods run in the side's own process; `self.args` is the command line, `self.folder` is shared by all sides
    of a case, prepared in the order in which the script names them."""

    once = False  # every case gets a process of its own

    def versions(self):
        """{package: version}; imports the library."""
        return {}

    def prepare(self, case):
        """Makes everything that is not timed. Answers {name: numpy array}, the evidence."""
        raise NotImplementedError

    def run(self):
        """Once the work that is timed. Answers None, or the seconds where the work is timed elsewhere."""
        raise NotImplementedError

    def peak_bytes(self):
        """The resident peak since the case was prepared."""
        return status_bytes("VmHWM")

    def finish(self):
        """Lets go of a case."""
        keep = {"args", "folder"}
        for name in [n for n in vars(self) if n not in keep]:
            delattr(self, name)


def status_bytes(key):
    return int(pathlib.Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024


def reset_peak():
    """From here on VmHWM is the peak of what follows: loading and checking are not the work."""
    import ctypes
    import gc
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def timed(side, fill):
    """Seconds of one run: the mean of as many as fill that time, after the first. In a single short run there is little but waking the threads and
    fetching what the other side's turn drove out of the caches."""
    begin = time.perf_counter()
    told = side.run()
    seconds = time.perf_counter() - begin if told is None else told
    if told is not None or seconds >= fill:
        return {"seconds": seconds, "runs": 1}
    runs, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < fill:
        side.run()
        runs += 1
    return {"seconds": (time.perf_counter() - begin) / runs, "runs": runs}


def serve(side, args, answers):
    import numpy as np

    def answer(**what):
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["do"] == "versions":
                answer(versions=side.versions())
            elif order["do"] == "prepare":
                side.folder = pathlib.Path(order["folder"])
                case = argparse.Namespace(name=order["name"], **order["settings"])
                evidence = side.prepare(case)
                np.savez(side.folder / f"{order['side']}.npz", **evidence)
                del evidence
                reset_peak()
                answer(ready=True)
            elif order["do"] == "run":
                answer(**timed(side, order["fill"]))
            elif order["do"] == "finish":
                peak = side.peak_bytes()
                if not side.once:
                    side.finish()
                answer(peak=peak)
        except BaseException as e:  # whatever a library raises becomes a sentence in the table
            traceback.print_exc()
            answer(error=f"{type(e).__name__}: {e}".split("\n")[0][:300])


class Failed(Exception):
    pass


class Worker:
    def __init__(self, name, args, log):
        self.name, self.limit = name, args.limit
        environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads), PYTHONUNBUFFERED="1",
                           TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
        self.process = subprocess.Popen([sys.executable, *sys.argv, "--side", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                        text=True, env=environment)

    def ask(self, **order):
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"its process ended with {self.process.wait()}") from None
        ready, _, _ = select.select([self.process.stdout], [], [], self.limit)
        if not ready:
            self.stop()
            raise Failed(f"{order['do']} took longer than {self.limit:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"its process ended with {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def stop(self):
        self.process.kill()
        self.process.wait()
