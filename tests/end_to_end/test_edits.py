"""A model made out of another one is a model like any: written, evaluated, continued, tuned, merged and quantized again."""
import json

import cli

TEXT = "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience.\n" * 24
SPEC = "slicegpt:sparsity=0.25,samples=8,sample_length=32"


class Edits(cli.Cli):
    def setUp(self):
        super().setUp()
        self.text = self.folder / "text.txt"
        self.text.write_text(TEXT)
        self.train = ["--data", self.text, "--seq-len", 32, "--steps", 4, "--lr", 1e-2, "--threads", 1]
        self.succeed("train", "--model", "preset:9m", "--output", self.folder / "run", *self.train)
        self.model = self.folder / "run" / "final"

    def loss(self, model, *flags):
        return self.answer("eval", "--model", model, "--data", self.text, "--seq-len", 32, "--threads", 1, *flags)["loss"]

    def test_a_sliced_model_goes_everywhere(self):
        sliced = self.folder / "sliced"
        written = self.answer("quantize", "--model", self.model, "--quantizer", SPEC, "--calibration", self.text, "--output", sliced)
        self.assertIn("parameters became", written["notes"][0])
        shape = json.loads((sliced / "config.json").read_text())["tenon_edits"]
        self.assertEqual(shape["widths"], [96] * 8 + [128])
        loss = self.loss(sliced)
        self.assertAlmostEqual(self.loss(self.model, "--quantizer", SPEC, "--calibration", self.text), loss, delta=1e-5)
        self.assertNotEqual(loss, self.loss(self.model))
        self.assertEqual(len(self.answer("generate", "--model", sliced, "--prompt", "All human", "--max-new-tokens", 8, "--temperature", 0)["ids"]), 8)
        self.succeed("train", "--model", sliced, "--adapter", "lora:r=4,target_modules=all-linear", "--output", self.folder / "tuned", *self.train)
        adapter = self.folder / "tuned" / "final"
        tuned = self.loss(sliced, "--adapter-from", adapter)
        self.assertLess(tuned, loss)
        merged = self.folder / "merged"
        self.succeed("merge", "--model", sliced, "--adapter-from", adapter, "--output", merged)
        self.assertAlmostEqual(self.loss(merged), tuned, delta=1e-5)
        coded = self.folder / "coded"
        self.succeed("quantize", "--model", merged, "--quantizer", "nf4", "--output", coded)
        self.assertAlmostEqual(self.loss(coded), tuned, delta=0.2)
        self.succeed("train", "--model", sliced, "--output", self.folder / "full", *self.train)
        self.assertLess(self.loss(self.folder / "full" / "final"), loss)

    def test_what_cannot_be_is_refused(self):
        sliced = self.folder / "sliced"
        self.refuse("quantize", "--model", self.model, "--quantizer", SPEC, "--output", sliced, names=["--calibration"])
        self.refuse("quantize", "--model", self.model, "--quantizer", SPEC, "--calibration", self.text, "--output", self.folder / "x.gguf", names=["GGUF"])
        self.refuse("quantize", "--model", "preset:9m", "--quantizer", SPEC, "--calibration", self.text, "--output", sliced, names=["random weights"])
        self.refuse("train", "--model", self.model, "--quantizer", SPEC, "--adapter", "lora", "--output", self.folder / "y", *self.train, names=["tenon quantize"])
        self.assertFalse(sliced.exists() or (self.folder / "x.gguf").exists())


if __name__ == "__main__":
    cli.main()
