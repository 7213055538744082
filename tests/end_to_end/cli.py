"""The command line driven as a user drives it. Standard library only.

Tests are unittest cases; main() takes the program and, for those that need it, the model, and exits 77 when that is absent.
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = ROOT / "examples" / "texts" / "us-constitution.txt"
SKIPPED = 77


class Cli(unittest.TestCase):
    """A scratch folder and the program under test, which sees no plugin but those of its own build."""
    tenon = model = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tenon-end-to-end-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        # Threads that wait sleep, so that a busy machine is slow and no more than that.
        self.environment = dict(os.environ, TENON_HOME=str(self.folder / "store"), OMP_WAIT_POLICY="passive")

    def start(self, *arguments, **options):
        return subprocess.Popen([self.tenon, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                stdin=subprocess.DEVNULL, env=self.environment, **options)

    def run_tenon(self, *arguments, **options):
        process = self.start(*arguments, **options)
        process.stdout_text, process.stderr_text = process.communicate(timeout=1200)
        return process

    def succeed(self, *arguments):
        process = self.run_tenon(*arguments)
        self.assertEqual(process.returncode, 0, process.stderr_text[-500:])
        return process

    def answer(self, *arguments):
        """The one JSON document that --json puts on standard output."""
        return json.loads(self.succeed(*arguments, "--json").stdout_text)

    def refuse(self, *arguments, names=(), **options):
        """Refused with one last line that names what is wrong, and a small positive exit code."""
        process = self.run_tenon(*arguments, **options)
        self.check_refusal(process, names)
        return process

    def check_refusal(self, process, names):
        said = process.stderr_text.strip()
        self.assertIn(process.returncode, range(1, 126), said)
        refusal = said.splitlines()[-1]
        self.assertTrue(refusal.startswith("tenon: "), said)
        for leaked in ("std::", "terminate called", "Assertion"):
            self.assertNotIn(leaked, said)
        for name in names:
            self.assertIn(name.lower(), refusal.lower())


def metrics(output):
    """The lines of a run's metrics, without what the clock says."""
    rows = [json.loads(line) for line in (pathlib.Path(output) / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("seconds", None)
    return rows


def files_of(folder):
    """Every file below a folder and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()}


class Safetensors:
    """A small F32 safetensors file, read whole; write() puts changed tensors back."""

    def __init__(self, path):
        self.path, data = path, pathlib.Path(path).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        self.header, self.body = json.loads(data[8:8 + size]), bytearray(data[8 + size:])
        self.prefix = data[:8 + size]

    def names(self):
        return [name for name in self.header if name != "__metadata__"]

    def read(self, name):
        begin, end = self.header[name]["data_offsets"]
        return list(struct.unpack(f"<{(end - begin) // 4}f", self.body[begin:end]))

    def set(self, name, index, value):
        struct.pack_into("<f", self.body, self.header[name]["data_offsets"][0] + 4 * index, value)

    def write(self):
        pathlib.Path(self.path).write_bytes(self.prefix + self.body)


def main():
    """test_x.py TENON [MODEL] [unittest arguments]"""
    Cli.tenon = sys.argv[1]
    rest = sys.argv[2:]
    if rest and rest[0].endswith(".gguf"):
        Cli.model = rest.pop(0)
        if not os.path.exists(Cli.model):
            print(f"skipped: {Cli.model} is not there and could not be fetched")
            sys.exit(SKIPPED)
    unittest.main(argv=sys.argv[:1] + rest, verbosity=2)
