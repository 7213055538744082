"""`tenon compare`: mixes side by side, each in a process of its own, and what is left when it is stopped and gone on with."""
import json
import os
import unittest

import cli


class Compare(cli.Cli):
    def flags(self, *more):
        return ("compare", "--model", "preset:9m", "--data", self.text, "--output", self.output, "--seq-len", "32", "--batch-size", "2",
                "--steps", "3", "--held-out", "0.1", *more)

    def setUp(self):
        super().setUp()
        self.output = str(self.folder / "compared")
        self.text = str(self.folder / "text.txt")
        with open(self.text, "w") as f:
            f.write("The tongue of wood fits the mortise. " * 80)

    def test_mixes_are_set_side_by_side_with_what_failed(self):
        answer = self.answer(*self.flags("--mix", "plain: --optimizer adamw", "--mix", "--optimizer sgd --lr 0.01",
                                         "--mix", "routed: --optimizer 'muon for matrices, adamw for rest'", "--mix", "wrong: --optimizer adamw --quantizer nf4"))
        mixes = answer["mixes"]
        self.assertEqual([m["mix"] for m in mixes], ["plain", "--optimizer sgd --lr 0.01", "routed", "wrong"])
        for m in mixes[:3]:
            self.assertGreater(m["loss"], 0)
            self.assertGreater(m["process_peak_bytes"], m["peak_bytes"])
        self.assertGreater(mixes[0]["peak_bytes"], mixes[1]["peak_bytes"])  # two moments against none
        self.assertIn("nf4", mixes[3]["error"])
        for name, start in (("comparison.html", "<!doctype html>"), ("comparison.svg", "<svg"), ("comparison.json", "{")):
            with open(os.path.join(self.output, name)) as f:
                self.assertEqual(f.read(len(start)).lower(), start)
        self.assertFalse(os.path.exists(os.path.join(self.output, "mix-1", "final")))
        self.assertTrue(os.path.exists(os.path.join(self.output, "mix-1", "metrics.jsonl")))

    def test_resuming_keeps_what_ran_with_the_same_flags(self):
        self.succeed(*self.flags("--mix", "plain: --optimizer adamw"))
        path = os.path.join(self.output, "comparison.json")
        with open(path) as f:
            kept = json.load(f)
        kept["mixes"][0]["loss"] = 123.0  # would be lost if the mix ran again
        with open(path, "w") as f:
            json.dump(kept, f)
        mixes = self.answer(*self.flags("--resume", "--mix", "plain: --optimizer adamw", "--mix", "--optimizer sgd"))["mixes"]
        self.assertEqual(mixes[0]["loss"], 123.0)
        self.assertLess(mixes[1]["loss"], 100)
        other = self.answer(*self.flags("--resume", "--seed", "4", "--mix", "plain: --optimizer adamw"))["mixes"]
        self.assertLess(other[0]["loss"], 100)  # other flags in common: nothing of before counts

    def test_bad_mixes_are_refused_before_any_runs(self):
        self.refuse(*self.flags(), names=("--mix",))
        self.refuse(*self.flags("--mix", "--optimizer 'muon for"), names=("'",))
        self.assertFalse(os.path.exists(os.path.join(self.output, "mix-1")))


if __name__ == "__main__":
    cli.main()
