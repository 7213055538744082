"""A catalog with 10,000 plugins: `tenon plugin list` and `tenon check`, whole processes. There is no peer; the aims are 50 ms and 10 ms.

The plugins are copies of one installed folder under other ids, read in by `tenon plugin rescan`.
"""
import json
import os
import pathlib
import shutil
import subprocess

import harness
from tenon_side import binary, environment


class Tenon(harness.Side):
    def versions(self):
        return {"tenon": "0"}

    def prepare(self, case):
        import numpy as np
        self.store = pathlib.Path(self.args.build) / "peers" / f"catalog-{case.plugins}-listing"  # filled once: ten thousand folders take a while
        self.environment = environment(self.args) | {"TENON_HOME": str(self.store.resolve())}
        self.command = [binary(self.args), *case.command]
        if not (self.store / "catalog.sqlite").exists():
            shutil.rmtree(self.store, ignore_errors=True)
            self.fill(case.plugins)
            self.tenon("plugin", "rescan")
        found = len(json.loads(self.tenon("plugin", "list", "--json")))
        if found < case.plugins:
            shutil.rmtree(self.store)
            raise RuntimeError(f"{found} plugins are listed of {case.plugins} that were made")
        return {"count": np.array(found)}

    def fill(self, plugins):
        installed = pathlib.Path(environment(self.args)["TENON_HOME"]) / "plugins"
        for plugin in installed.iterdir():
            shutil.copytree(plugin, self.store / "plugins" / plugin.name)
        source = next(iter(sorted((installed / "sgd").iterdir())))
        manifest = json.loads((source / "manifest.json").read_text())
        for i in range(plugins):
            folder = self.store / "plugins" / f"com.example.n{i}" / source.name
            folder.mkdir(parents=True)
            for file in source.iterdir():
                if file.name != "manifest.json":
                    os.link(self.store / "plugins" / "sgd" / source.name / file.name, folder / file.name)
            (folder / "manifest.json").write_text(json.dumps(manifest | {"id": f"com.example.n{i}"}))

    def tenon(self, *command):
        done = subprocess.run([binary(self.args), *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
        return done.stdout

    def run(self):
        subprocess.run(self.command, stdout=subprocess.DEVNULL, check=True, env=self.environment)

    def peak_bytes(self):
        return None


def cases(args):
    plugins = 200 if args.quick else 10_000
    for name, seconds, command in (("list", 0.050, ["plugin", "list", "--json"]),
                                   ("check", 0.010, ["check", "--optimizer", "adamw", "--adapter", "lora:r=16", "--quantizer", "nf4", "--json"])):
        yield harness.Case(f"catalog of {plugins:,} plugins, {name}", None, aim_seconds=seconds, warmup=2, repeat=20, plugins=plugins, command=command)


if __name__ == "__main__":
    harness.main(__doc__, {"tenon": Tenon}, cases)
