"""Models through the formats of other tools and back, on the committed tiny models: the loss says whether they are the same."""
import json

import cli

TOKENIZERS = cli.ROOT / "tests" / "reference" / "tokenizers"
TEXT = "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience.\n" * 12


class Formats(cli.Cli):
    def setUp(self):
        super().setUp()
        self.text = self.folder / "text.txt"
        self.text.write_text(TEXT)

    def trained(self, tokenizer="bytes_llama3", preset="9m", **config):
        """A folder as transformers writes it: random weights after two steps, with a tokenizer of its own."""
        words = self.folder / "words"
        if not words.exists():
            words.mkdir()
            (words / "tokenizer.json").write_text((TOKENIZERS / f"{tokenizer}.json").read_text())
            (words / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages[0]['content'] }}"}))
        self.succeed("train", "--model", f"preset:{preset}", "--tokenizer", words, "--data", self.text, "--output", self.folder / "run", "--seq-len", 32,
                     "--steps", 2, "--lr", 1e-2, "--overwrite")
        model = self.folder / "run" / "final"
        for file in words.iterdir():
            (model / file.name).write_text(file.read_text())
        settings = json.loads((model / "config.json").read_text()) | config
        (model / "config.json").write_text(json.dumps(settings))
        return model

    def loss(self, model, *flags):
        return self.answer("eval", "--model", model, "--data", self.text, "--seq-len", 32, "--threads", 1, *flags)["loss"]

    def ids(self, model):
        return self.answer("tokenize", "--model", model, "--text", TEXT[:120], "--special")["ids"]

    def test_a_folder_becomes_gguf_with_its_tokenizer(self):
        for tokenizer, changes in (("bytes_llama3", {"rope_theta": 500000.0, "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}),
                ("sp_legacy", {})):
            with self.subTest(tokenizer):
                self.setUp()
                model = self.trained(tokenizer, **changes)
                ids, loss = self.ids(model), self.loss(model)
                plain = self.folder / "plain.gguf"
                written = self.answer("quantize", "--model", model, "--quantizer", "gguf-blocks:type=F32", "--output", plain)
                self.assertEqual(written["fallbacks"], {})
                self.assertEqual(self.ids(plain), ids)
                self.assertAlmostEqual(self.loss(plain), loss, delta=1e-6)
                self.assertEqual(self.answer("generate", "--model", plain, "--prompt", "All human", "--max-new-tokens", 8, "--temperature", 0)["ids"],
                                 self.answer("generate", "--model", model, "--prompt", "All human", "--max-new-tokens", 8, "--temperature", 0)["ids"])
                # From GGUF to GGUF, and what does not fill the blocks of 256 falls back.
                coded = self.folder / "coded.gguf"
                written = self.answer("quantize", "--model", plain, "--quantizer", "gguf-blocks:type=Q6_K", "--output", coded)
                self.assertEqual(written["fallbacks"], {"Q8_0": 28})
                self.assertEqual(self.ids(coded), ids)
                self.assertAlmostEqual(self.loss(coded), loss, delta=5e-3)

    def test_tokens_behind_the_embedding_hinder_only_texts_that_use_them(self):
        """As of models that were given a [PAD] for batches without a row for it."""
        model = self.trained()
        ids, loss = self.ids(model), self.loss(model)
        rows = json.loads((model / "config.json").read_text())["vocab_size"]
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        tokenizer.setdefault("added_tokens", []).append({"id": rows, "content": "[PAD]", "special": True})
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        (model / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}))
        self.assertEqual(self.ids(model), ids)
        self.assertEqual(self.loss(model), loss)
        for temperature in (0, 50):
            said = self.answer("generate", "--model", model, "--prompt", "All human", "--max-new-tokens", 64, "--temperature", temperature, "--top-p", 1, "--ignore-eos")
            self.assertEqual(len(said["ids"]), 64)
            self.assertLess(max(said["ids"]), rows)
        lines = self.folder / "lines.jsonl"
        lines.write_text("".join(json.dumps({"prompt": "All human", "completion": " beings are born free"}) + "\n" for _ in range(8)))
        self.succeed("train", "--model", model, "--data", lines, "--output", self.folder / "padded", "--seq-len", 32, "--steps", 2, "--no-pack")
        self.assertEqual(self.ids(self.folder / "padded" / "final"), ids)
        gguf = self.folder / "padded.gguf"
        self.succeed("quantize", "--model", model, "--quantizer", "gguf-blocks:type=F32", "--output", gguf)
        self.assertEqual(self.ids(gguf), ids)
        self.assertAlmostEqual(self.loss(gguf), loss, delta=1e-6)

        names = ("[PAD]", str(rows), "vocabulary of " + str(rows))
        self.assertEqual(self.answer("tokenize", "--model", model, "--text", "[PAD]")["ids"], [rows])
        self.refuse("generate", "--model", model, "--prompt", "All [PAD] human", names=("the prompt", *names))
        padded = self.folder / "padded.txt"
        padded.write_text(TEXT + "[PAD]" + TEXT)
        lines.write_text(json.dumps({"text": "fine"}) + "\n" + json.dumps({"text": "[PAD]"}) + "\n")
        for data, where in ((padded, "padded.txt"), (lines, "line 2")):
            self.refuse("eval", "--model", model, "--data", data, "--seq-len", 32, names=(where, *names))
            self.refuse("train", "--model", model, "--data", data, "--output", self.folder / "none", "--seq-len", 32, names=(where, *names))
        self.refuse("train", "--model", model, "--data", self.text, "--output", self.folder / "none", "--sample-prompt", "[PAD]", names=("--sample-prompt", *names))
        self.refuse("quantize", "--model", model, "--quantizer", "gptq", "--calibration", padded, "--output", self.folder / "coded", names=("padded.txt", *names))
        self.assertFalse((self.folder / "none").exists())
        # A chat template that writes the token makes every prompt one that uses it.
        (model / "chat_template.jinja").write_text("{{ messages[0]['content'] }}[PAD]")
        self.refuse("generate", "--model", model, "--prompt", "All human", names=("the prompt", *names))
        self.succeed("generate", "--model", model, "--prompt", "All human", "--raw", "--max-new-tokens", 2)

    def test_every_type_that_is_written_is_read(self):
        model = self.trained()
        loss = self.loss(model)
        for kind, bound in {"F16": 1e-3, "BF16": 2e-3, "Q8_0": 2e-3, "Q5_0": 2e-2, "Q4_K": 5e-2}.items():
            coded = self.folder / f"{kind}.gguf"
            self.succeed("quantize", "--model", model, "--quantizer", f"gguf-blocks:type={kind}", "--output", coded)
            self.assertAlmostEqual(self.loss(coded), loss, delta=bound, msg=kind)

    def test_blocks_of_a_file_are_used_as_they_are(self):
        """Coding them again would change Q4_1's numbers; taken over, the model is the very same in fewer bytes, and so are its embedding and head."""
        model, coded = self.trained(), self.folder / "coded.gguf"
        self.succeed("quantize", "--model", model, "--quantizer", "gguf-blocks:type=Q4_1", "--output", coded)
        flags = ["eval", "--model", coded, "--data", self.text, "--seq-len", 32, "--threads", 1]
        whole, held = self.answer(*flags), self.answer(*flags, "--quantizer", "gguf-blocks:type=Q4_1", "--embeddings", "gguf-blocks:type=F32")
        self.assertAlmostEqual(held["loss"], whole["loss"], delta=1e-6)
        self.assertLess(held["peak_bytes"], whole["peak_bytes"])
        small = self.answer(*flags, "--quantizer", "gguf-blocks:type=Q4_1", "--embeddings", "gguf-blocks:type=Q8_0")
        self.assertAlmostEqual(small["loss"], whole["loss"], delta=2e-3)
        self.assertLess(small["peak_bytes"], held["peak_bytes"])
        self.refuse("train", "--model", model, "--data", self.text, "--output", self.folder / "full", "--seq-len", 32, "--batch-size", 1, "--embeddings", "nf4", names=["--embeddings"])

    def test_bitsandbytes_folders_are_models(self):
        model = self.trained()
        for kind, double in (("nf4", "true"), ("fp4", "false")):
            spec = f"nf4:quant_type={kind},double_quant={double}"
            folder = self.folder / kind
            self.succeed("quantize", "--model", model, "--quantizer", spec, "--output", folder)
            settings = json.loads((folder / "config.json").read_text())["quantization_config"]
            self.assertEqual((settings["bnb_4bit_quant_type"], settings["bnb_4bit_use_double_quant"]), (kind, double == "true"))
            coded = self.loss(model, "--quantizer", spec)
            self.assertEqual(self.loss(folder), coded)  # the codes are taken over as they are
            self.assertAlmostEqual(self.loss(folder, "--quantizer", "none"), coded, delta=1e-6)
            self.assertAlmostEqual(self.loss(folder, "--quantizer", "blockwise-8bit"), coded, delta=2e-3)
            common = ["--data", self.text, "--seq-len", 32, "--steps", 3, "--lr", 1e-2, "--threads", 1]
            adapted = ["--adapter", "lora:r=4,target_modules=all-linear"]
            self.succeed("train", "--model", folder, *common, *adapted, "--output", self.folder / f"{kind}-run")
            self.succeed("train", "--model", model, *common, *adapted, "--quantizer", spec, "--output", self.folder / f"{kind}-again")
            self.assertEqual(cli.metrics(self.folder / f"{kind}-run"), cli.metrics(self.folder / f"{kind}-again"))
            self.refuse("train", "--model", folder, *common, "--output", self.folder / "full", names=["full tuning"])
        settings["load_in_4bit"], settings["load_in_8bit"] = False, True
        whole = json.loads((folder / "config.json").read_text()) | {"quantization_config": settings}
        (folder / "config.json").write_text(json.dumps(whole))
        self.refuse("eval", "--model", folder, "--data", self.text, names=["bitsandbytes", "codes"])
        whole["quantization_config"] = {"quant_method": "gptq", "bits": 4}
        (folder / "config.json").write_text(json.dumps(whole))
        self.refuse("eval", "--model", folder, "--data", self.text, names=["qweight"])

    def test_folders_of_gptq_tools_are_models(self):
        model = self.trained()
        calibration = ["--calibration", self.text]
        for spec in ("gptq:bits=4,group_size=32,samples=4,sample_length=64", "gptq:bits=3,group_size=32,act_order=true,samples=4,sample_length=64",
                     "gptq:bits=8,group_size=64,checkpoint_format=gptq_v2,samples=4,sample_length=64",
                     "efficientqat:bits=3,train_size=4,training_seqlen=64,val_size=0"):
            with self.subTest(spec):
                folder = self.folder / spec.replace(":", "-").replace(",", "-")
                self.succeed("quantize", "--model", model, "--quantizer", spec, *calibration, "--output", folder)
                settings = json.loads((folder / "config.json").read_text())["quantization_config"]
                self.assertEqual((settings["quant_method"], settings["bits"]), ("gptq", int(spec.split("bits=")[1][0])))
                self.assertAlmostEqual(self.loss(folder), self.loss(model, "--quantizer", spec, *calibration), delta=1e-6)
                self.assertAlmostEqual(self.loss(folder, "--quantizer", "none"), self.loss(folder), delta=1e-4)

    def test_a_grid_is_trained_block_by_block_and_its_scales_in_a_run_of_their_own(self):
        model, folder, run = self.trained(), self.folder / "grids", self.folder / "scales"
        method = lambda f: json.loads((f / "config.json").read_text())["quantization_config"]["quant_method"]
        self.succeed("quantize", "--model", model, "--quantizer", "efficientqat:bits=3,scale_bits=32,train_size=4,training_seqlen=64,val_size=0",
                     "--calibration", self.text, "--output", folder)
        self.assertEqual(method(folder), "tenon")  # scales in f32, which training goes on with
        before = self.loss(folder)
        self.succeed("train", "--model", folder, "--data", self.text, "--seq-len", 32, "--optimizer", "adamw:weight_decay=0", "--lr", 2e-3, "--steps", 12, "--output", run)
        self.assertEqual(method(run / "final"), "gptq")  # what other tools read
        self.assertLess(self.loss(run / "final"), before - 0.01)

    def test_a_folder_of_segments_is_loaded_under_any_budget(self):
        model, folder = self.trained(), self.folder / "stack"
        spec = "bitstack:k=4,niter=4,nsamples=4,sample_length=64,score_samples=2,score_length=32"
        self.succeed("quantize", "--model", model, "--quantizer", spec, "--calibration", self.text, "--output", folder)
        dense, whole = self.loss(model), self.loss(folder)
        self.assertAlmostEqual(whole, self.loss(model, "--quantizer", spec, "--calibration", self.text), delta=1e-6)
        size = sum(entry["linear_bytes"] for entry in self.answer(
            "eval", "--model", folder, "--data", self.text, "--seq-len", 32, "--table", json.loads((folder / "config.json").read_text())["quantization_config"]["quantizer"])["quantizers"])
        away = [abs(self.loss(folder, "--weight-budget", int(size * share)) - dense) for share in (1, 0.5)]
        self.assertLess(abs(whole - dense), away[1])
        self.assertAlmostEqual(away[0], abs(whole - dense), delta=1e-9)
        peaks = [self.answer("eval", "--model", folder, "--data", self.text, "--seq-len", 32, "--weight-budget", int(size * share))["peak_bytes"] for share in (1, 0.5)]
        self.assertLess(peaks[1], peaks[0] - 0.4 * size)  # what does not fit is never in memory
        self.refuse("eval", "--model", folder, "--data", self.text, "--weight-budget", 1000, names=["--weight-budget", "first segment"])

    def test_bitsandbytes_folders_in_8_bits_are_models(self):
        model, folder = self.trained(), self.folder / "int8"
        self.succeed("quantize", "--model", model, "--quantizer", "llm-int8", "--output", folder)
        self.assertTrue(json.loads((folder / "config.json").read_text())["quantization_config"]["load_in_8bit"])
        coded = self.loss(model, "--quantizer", "llm-int8")
        self.assertEqual(self.loss(folder), coded)
        self.assertAlmostEqual(self.loss(folder, "--quantizer", "none"), coded, delta=2e-3)
        self.succeed("train", "--model", folder, "--data", self.text, "--seq-len", 32, "--steps", 2, "--adapter", "lora:r=4", "--output", self.folder / "run8")

    def test_a_tokenizer_of_ones_own_goes_with_what_was_trained(self):
        model = self.trained()
        own = self.folder / "own"
        own.mkdir()
        (own / "tokenizer.json").write_text((model / "tokenizer.json").read_text())
        (own / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": "{{ messages[0]['content'] | upper }}"}))
        common = ["--model", model, "--data", self.text, "--seq-len", 32, "--steps", 1]
        for name, flags in (("full", []), ("adapter", ["--adapter", "lora:r=2"])):
            output = self.folder / name
            self.succeed("train", *common, *flags, "--tokenizer", own, "--output", output)
            for file in own.iterdir():
                self.assertEqual((output / "final" / file.name).read_text(), file.read_text())
        self.succeed("train", *common, "--adapter", "lora:r=2", "--output", self.folder / "usual")
        self.assertFalse((self.folder / "usual" / "final" / "tokenizer.json").exists())
        larger = json.loads((own / "tokenizer.json").read_text())
        larger["model"]["vocab"] = {token: n + 1000 for token, n in larger["model"]["vocab"].items()}
        larger["added_tokens"] = []
        (own / "tokenizer.json").write_text(json.dumps(larger))
        self.refuse("train", *common, "--tokenizer", own, "--output", self.folder / "none", names=["--tokenizer", "but the model has"])
        self.assertFalse((self.folder / "none").exists())
        # A model's own tokenizer may have tokens beyond the vocabulary; a text may not use them.
        (model / "tokenizer.json").write_text(json.dumps(larger))
        self.refuse("train", *common, "--output", self.folder / "none", names=["uses the token", "beyond the model's vocabulary"])
        self.assertFalse((self.folder / "none").exists())
        self.refuse("eval", "--model", model, "--data", self.text, names=["uses the token", "beyond the model's vocabulary"])

    def test_merging_writes_what_is_asked_for(self):
        model = self.trained()
        self.succeed("train", "--model", model, "--data", self.text, "--output", self.folder / "adapter", "--seq-len", 32, "--steps", 4, "--lr", 2e-2,
                     "--adapter", "lora:r=4,target_modules=all-linear")
        adapter = self.folder / "adapter" / "final"
        adapted = self.loss(model, "--adapter-from", adapter)
        self.assertNotAlmostEqual(adapted, self.loss(model), delta=1e-2)
        targets = {"plain": ([], 1e-6), "half": (["--dtype", "f16"], 1e-3), "m.gguf": ([], 1e-6), "half.gguf": (["--dtype", "f16"], 1e-3),
                   "q8.gguf": (["--output-quantizer", "gguf-blocks:type=Q8_0"], 2e-3), "nf4": (["--output-quantizer", "nf4"], 8e-2)}
        for name, (flags, bound) in targets.items():
            output = self.folder / name
            self.succeed("merge", "--model", model, "--adapter-from", adapter, "--output", output, *flags)
            self.assertAlmostEqual(self.loss(output), adapted, delta=bound, msg=name)
        self.assertEqual(json.loads((self.folder / "half" / "config.json").read_text())["torch_dtype"], "float16")
        # Over a base that is stored in codes the delta is added to what they decode to.
        self.succeed("merge", "--model", self.folder / "nf4", "--adapter-from", adapter, "--output", self.folder / "twice")
        self.assertAlmostEqual(self.loss(self.folder / "twice"), self.loss(self.folder / "nf4", "--adapter-from", adapter), delta=1e-5)
        self.refuse("merge", "--model", model, "--adapter-from", adapter, "--output", self.folder / "x.gguf", "--output-quantizer", "nf4", names=["GGUF"])
        self.refuse("quantize", "--model", "preset:9m", "--quantizer", "nf4", "--output", self.folder / "x", names=["random weights"])
        self.assertFalse((self.folder / "x").exists() or (self.folder / "x.gguf").exists())


if __name__ == "__main__":
    cli.main()
