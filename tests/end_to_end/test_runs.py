"""Runs that are interrupted, starved, poisoned or too large, on a tiny preset from random weights."""
import json
import math
import pathlib
import resource
import signal
import time

import cli

# Full tuning from a seed; every step is a matter of milliseconds, on one thread also where the machine is busy.
SMALL = ["--model", "preset:9m", "--data", cli.TEXT, "--seq-len", 48, "--batch-size", 2, "--lr", 1e-3, "--seed", 5, "--threads", 1]


class Runs(cli.Cli):
    def train(self, output, *flags):
        return self.answer("train", *SMALL, "--output", output, *flags)

    def wait_for(self, condition, process):
        """Polls until the condition holds; the process must still be running then."""
        deadline = time.monotonic() + 60
        while not condition():
            self.assertIsNone(process.poll(), "the run ended before it could be interrupted")
            self.assertLess(time.monotonic(), deadline, "the run does not get on")
            time.sleep(0.005)

    def handled(self, process):
        """The signals that run code in whatever thread they reach. oneDNN's products have the stack in a buffer on the heap, which a handler's frame would overwrite."""
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return {s for s in signal.valid_signals() if caught >> (s - 1) & 1}

    def test_killed_runs_resume_bit_for_bit(self):
        mixes = {"full": ["--optimizer", "adamw8:min_8bit_size=256", "--held-out", 0.1],
                 "adapter": ["--adapter", "lora:r=4,target_modules=all-linear,lora_dropout=0.1", "--quantizer", "nf4", "--dtype", "bf16"]}
        for name, mix in mixes.items():
            with self.subTest(name):
                flags = [*mix, "--steps", 120, "--checkpoint-every", 10]
                whole, broken = self.folder / f"{name}-whole", self.folder / f"{name}-broken"
                self.train(whole, *flags)
                for step in (10, 50, 90):
                    process = self.start("train", *SMALL, "--output", broken, *flags, "--resume")
                    self.wait_for(lambda: any(int(p.name.split("-")[1]) >= step for p in broken.glob("checkpoint-*")
                                              if p.name.split("-")[1].isdigit()), process)
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                self.assertFalse((broken / "final").exists())
                self.train(broken, *flags, "--resume")
                self.assertEqual(cli.metrics(broken), cli.metrics(whole))
                self.assertEqual(cli.files_of(broken / "final"), cli.files_of(whole / "final"))
                self.assertEqual({p.name for p in broken.iterdir()}, {p.name for p in whole.iterdir()}, "something half-written is left")

    def test_interrupt_stops_with_a_checkpoint_to_go_on_from(self):
        flags = ["--steps", 400, "--schedule", "constant"]
        whole, stopped = self.folder / "whole", self.folder / "stopped"
        self.train(whole, *flags)
        # Whoever runs the tests may ignore the signal, as a shell does for what it runs in the background; the program would too.
        process = self.start("train", *SMALL, "--output", stopped, *flags, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.wait_for(lambda: (stopped / "metrics.jsonl").exists() and len(cli.metrics(stopped)) >= 20, process)
        self.assertEqual(self.handled(process) & {signal.SIGINT, signal.SIGTERM}, set())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn("--resume", out)
        done = len(cli.metrics(stopped))
        self.assertTrue(20 <= done < 400)
        self.assertTrue((stopped / f"checkpoint-{done}").is_dir())
        self.assertFalse((stopped / "final").exists())
        self.train(stopped, *flags, "--resume")
        self.assertEqual(cli.metrics(stopped), cli.metrics(whole))
        self.assertEqual(cli.files_of(stopped / "final"), cli.files_of(whole / "final"))

    def test_what_a_preset_became_is_a_whole_model(self):
        for attention in ("flash-attention", "deltanet"):
            with self.subTest(attention):
                output = self.folder / attention
                self.succeed("train", "--model", "preset:9m", "--data", cli.TEXT, "--output", output, "--steps", "2", "--seq-len", "32", "--batch-size", "2",
                             "--attention", attention)
                self.assertEqual(self.answer("tokenize", "--model", output / "final", "--text", "We")["ids"], [87, 101])
                said = self.answer("generate", "--model", output / "final", "--prompt", "We the", "--max-new-tokens", "4", "--temperature", "0")
                self.assertGreater(len(said["ids"]), 0)

    def test_a_text_that_is_not_utf8_is_refused_by_its_name(self):
        text = self.folder / "latin.txt"
        text.write_bytes("Nat\u00fcrlich".encode("latin-1"))
        self.refuse("generate", "--model", "preset:9m", "--prompt-file", text, names=["latin.txt", "byte 3", "UTF-8"])
        self.refuse("train", *SMALL[4:], "--model", "preset:9m", "--output", self.folder / "run", "--data", text, names=["latin.txt", "UTF-8"])

    def test_another_mix_does_not_resume(self):
        output = self.folder / "run"
        self.train(output, "--steps", 4, "--checkpoint-every", 2, "--schedule", "constant")
        again = ["train", *SMALL, "--output", output, "--steps", 8, "--schedule", "constant", "--resume"]
        self.refuse(*again, "--optimizer", "sgd", names=["optimizer"])
        for flag, value in (("--clip", 0.5), ("--held-out", 0.2), ("--no-pack", None), ("--isolate-documents", None)):
            with self.subTest(flag):
                self.refuse(*again, flag, *([] if value is None else [value]), names=[flag])
        state = output / "checkpoint-4" / "state.json"
        text = json.loads(state.read_text())
        state.write_text(json.dumps(text | {"settings": {"--clip": 1}}))
        self.refuse(*again, names=["state.json", "--clip"])
        state.write_text(json.dumps(text))
        self.refuse("train", *SMALL, "--output", output, "--steps", 8, names=["--resume", "--overwrite"])

    def test_a_resumed_run_may_be_given_another_rate(self):
        output = self.folder / "run"
        plain = [x for i, x in enumerate(SMALL) if "--lr" not in SMALL[max(i - 1, 0):i + 1]]
        self.train(output, "--steps", 4, "--checkpoint-every", 2)
        self.refuse("train", *plain, "--output", output, "--resume", names=["--lr", "0.001", "same settings"])
        told = self.run_tenon("train", *plain, "--output", output, "--steps", 6, "--schedule", "constant", "--lr", 5e-4, "--resume")
        self.assertEqual(told.returncode, 0, told.stderr_text)
        for change in ("--lr 5e-04 instead of 0.001", "--schedule constant instead of cosine"):
            self.assertEqual(told.stderr_text.count(change), 1, told.stderr_text)
        self.assertEqual([line["lr"] for line in cli.metrics(output) if "lr" in line][4:], [5e-4, 5e-4])

    def test_an_output_that_cannot_be_used_is_refused_before_anything_else(self):
        taken = self.folder / "file"
        taken.write_text("")
        nothing = [self.folder / "nothing" if x is cli.TEXT else x for x in SMALL]
        self.refuse("train", *nothing, "--output", taken / "run", "--steps", 2, names=["cannot be made"])
        self.train(self.folder / "run", "--steps", 2)
        self.refuse("train", *nothing, "--output", self.folder / "run", "--steps", 2, names=["already holds a run"])
        self.refuse("train", *nothing, "--output", self.folder / "run", "--steps", 2, "--overwrite", names=["nothing"])
        self.assertTrue((self.folder / "run" / "final").is_dir(), "a run was removed for one that cannot begin")

    def test_adapters_of_one_name_are_all_kept(self):
        lora = ["--adapter", "lora:r=2,target_modules=q_proj", "--steps", 2]
        folders = [self.folder / "one" / "final", self.folder / "two" / "final"]
        for folder in folders:
            self.train(folder.parent, *lora)
        together = self.folder / "together"
        self.train(together, "--steps", 2, *(x for f in [*folders, f"{folders[1]}/."] for x in ("--adapter-from", f)))
        self.assertEqual(sorted(p.parent.name for p in together.glob("final/**/adapter_config.json")), ["adapter2", "final", "final"])
        self.assertTrue((together / "final" / "final" / "adapter_model.safetensors").exists())

    def test_full_disk_loses_nothing(self):
        """A limit on the size of files stands for the full disk: every write beyond it fails in the same way."""
        output = self.folder / "run"
        self.train(output, "--steps", 4, "--checkpoint-every", 4)
        before = cli.files_of(output / "checkpoint-4")

        def starve():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        self.refuse("train", *SMALL, "--output", output, "--steps", 8, "--checkpoint-every", 2, "--schedule", "constant", "--overwrite",
                    preexec_fn=starve, names=["checkpoint-2"])
        self.assertEqual([p.name for p in output.iterdir() if p.name != "metrics.jsonl"], [], "something half-written is left")
        self.train(output, "--steps", 4, "--checkpoint-every", 4, "--overwrite")
        self.assertEqual(cli.files_of(output / "checkpoint-4"), before)
        self.refuse("train", *SMALL, "--output", output, "--steps", 4, "--resume", preexec_fn=starve, names=["final"])
        self.assertEqual(cli.files_of(output / "checkpoint-4"), before)

    def test_unwritable_outputs(self):
        plain = self.folder / "file"
        plain.write_text("not a folder")
        for output in (plain, plain / "below", "/proc/tenon"):
            self.refuse("train", *SMALL, "--output", output, "--steps", 2, names=["--output", str(output)])
        self.assertEqual(plain.read_text(), "not a folder")

    def model_without_tilde(self):
        """A tiny model whose embedding of one byte, ~, is NaN: a window with that byte has no loss."""
        self.train(self.folder / "start", "--steps", 1)
        model = self.folder / "start" / "final"
        weights = cli.Safetensors(model / "model.safetensors")
        embedding = "model.embed_tokens.weight"
        width = weights.header[embedding]["shape"][1]
        for column in range(width):
            weights.set(embedding, ord("~") * width + column, math.nan)
        weights.write()
        return model, embedding, width

    def test_not_a_number_skips_the_step_and_says_so(self):
        model, embedding, width = self.model_without_tilde()
        text = ("We the people of the United States, in order to form a more perfect union. " * 4)[:240]
        data = self.folder / "text.txt"
        data.write_text(text[:96] + "~" + text[97:])
        output = self.folder / "run"
        process = self.succeed("train", "--model", model, "--tokenizer", self.bytes_tokenizer(), "--data", data, "--output", output,
                               "--seq-len", 48, "--batch-size", 1, "--steps", 5, "--order", "sequential", "--schedule", "constant")
        self.assertIn("step 3: NaN or Inf in the loss; the step was skipped", process.stderr_text)
        rows = cli.metrics(output)
        self.assertEqual([("skipped" in row) for row in rows], [False, False, True, False, False])
        self.assertEqual([row["loss"] is None for row in rows], [False, False, True, False, False])
        final = cli.Safetensors(output / "final" / "model.safetensors")
        for name in final.names():
            bad = [i for i, x in enumerate(final.read(name)) if not math.isfinite(x)]
            wanted = list(range(ord("~") * width, (ord("~") + 1) * width)) if name == embedding else []
            self.assertEqual(bad, wanted, name)

    def test_a_run_that_skips_every_step_ends(self):
        model, _, _ = self.model_without_tilde()
        data = self.folder / "text.txt"
        data.write_text("~ more perfect union " * 80)
        output = self.folder / "run"
        self.refuse("train", "--model", model, "--tokenizer", self.bytes_tokenizer(), "--data", data, "--output", output, "--seq-len", 48,
                    "--batch-size", 1, "--steps", 40, names=["25 steps were all skipped", "NaN or Inf in the loss", "lower --lr", str(output)])
        self.assertEqual(len(cli.metrics(output)), 25)
        self.assertFalse((output / "final").exists())

    def bytes_tokenizer(self):
        """A tokenizer.json whose ids are the bytes, as a preset reads text."""
        import json
        folder = self.folder / "bytes"
        folder.mkdir()
        # How byte-level BPE spells a byte as a character.
        plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
        spelled, extra = {}, 256
        for byte in range(256):
            spelled[chr(byte) if byte in plain else chr(extra)] = byte
            extra += byte not in plain
        spec = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
                "model": {"type": "BPE", "vocab": spelled, "merges": []}}
        (folder / "tokenizer.json").write_text(json.dumps(spec))
        return folder

    def test_memory_limit_refuses_before_allocating_and_names_what_fits(self):
        flags = ["train", "--model", "preset:60m", "--data", cli.TEXT, "--seq-len", 256, "--batch-size", 8, "--steps", 1]
        process = self.refuse(*flags, "--output", self.folder / "run", "--memory-limit", "400MB", names=["--memory-limit", "needs"])
        self.assertFalse((self.folder / "run").exists())
        words = process.stderr_text.split("with ", 1)[1].split()
        offered = []
        for word in words:
            if not (word.startswith("--") or (offered and offered[-1] in ("--dtype", "--batch-size"))):
                break
            offered.append(word)
        self.assertTrue(offered, process.stderr_text)
        shown = [flag for flag in flags[1:] if not (flag == "--batch-size" and "--batch-size" in offered)]
        plan = self.answer("plan", *shown, *offered)
        self.assertLessEqual(plan["planned_bytes"], 400e6, "what was said to fit does not")
        self.refuse("plan", "--model", "preset:9m", "--batch-size", 1 << 20, "--seq-len", 2048, names=["--batch-size 1048576", "--accumulate"])
        # What is really larger is refused while allocating too, where no plan looked ahead.
        self.refuse("eval", "--model", "preset:60m", "--data", cli.TEXT, "--memory-limit", "20MB", names=["memory limit"])


if __name__ == "__main__":
    cli.main()
