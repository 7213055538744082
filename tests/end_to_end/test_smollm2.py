"""A real model: SmolLM2-135M fine-tuned, evaluated, merged and continued from the command line."""
import json

import cli

GOLDEN = json.loads((cli.ROOT / "tests" / "reference" / "data" / "models" / "smollm2.json").read_text())
CHUNK = 5000  # bytes of the text: enough for a held-out part


class SmolLM2(cli.Cli):
    def test_the_likeliest_token_and_the_loss_are_those_of_the_reference(self):
        ids = self.answer("generate", "--model", self.model, "--prompt", GOLDEN["prompt"], "--raw", "--max-new-tokens", 1, "--temperature", 0)["ids"]
        self.assertEqual(ids, GOLDEN["top10_ids"][:1])
        text = self.folder / "text.txt"
        text.write_text(GOLDEN["text"])
        self.assertEqual(self.answer("tokenize", "--model", self.model, "--text-file", text)["ids"], GOLDEN["text_ids"])
        result = self.answer("eval", "--model", self.model, "--data", text, "--seq-len", 128)
        self.assertEqual(result["tokens"], len(GOLDEN["text_ids"]) - 1)
        self.assertAlmostEqual(result["loss"], GOLDEN["text_loss"], delta=1e-4 * GOLDEN["text_loss"])

    def test_lora_over_nf4_learns_the_text_and_merges(self):
        text = self.folder / "text.txt"
        text.write_text(cli.TEXT.read_text()[:CHUNK])
        output = self.folder / "run"
        common = ["--model", self.model, "--data", text, "--seq-len", 96]
        base = self.answer("eval", *common)["loss"]
        quantized = self.answer("eval", *common, "--quantizer", "nf4:double_quant=true")["loss"]
        self.assertTrue(base < quantized < 1.3 * base, (base, quantized))  # a small model, coded a second time
        result = self.answer("train", *common, "--output", output, "--batch-size", 2, "--steps", 8, "--lr", 2e-3, "--warmup", 0, "--schedule", "constant",
                             "--adapter", "lora:r=8,lora_alpha=16,target_modules=all-linear", "--quantizer", "nf4:double_quant=true",
                             "--held-out", 0.2, "--seed", 1)
        before, after = result["evaluations"][0], result["evaluations"][-1]
        self.assertLess(after["perplexity"], 0.9 * before["perplexity"])
        self.assertLess(abs(result["planned_bytes"] - result["peak_bytes"]), 0.03 * result["peak_bytes"])
        adapted = ["--quantizer", "nf4:double_quant=true", "--adapter-from", output / "final"]
        trained = self.answer("eval", *common, *adapted)["loss"]
        self.assertLess(trained, quantized - 0.1)
        merged = self.folder / "merged"
        self.succeed("merge", "--model", self.model, *adapted, "--output", merged)
        self.assertAlmostEqual(self.answer("eval", "--model", merged, "--data", text, "--seq-len", 96)["loss"], trained, delta=1e-3 * trained)


if __name__ == "__main__":
    cli.main()
