"""The binding on the plugins of the build tree: what works, and what wrong use gets."""
import gc
import mmap
import os
import pathlib
import signal
import tempfile
import threading
import time
import unittest

import numpy as np

import tenon

STORE = os.environ["TENON_TEST_STORE"]


def wave(*shape):
    return np.sin(0.37 * np.arange(int(np.prod(shape)), dtype=np.float32)).reshape(shape).astype(np.float32)


class Case(unittest.TestCase):
    def setUp(self):
        self.context = tenon.Context(STORE)
        self.session = self.context.session("onednn", memory_limit=1 << 30)

    def refused(self, kind, words):
        return self.assertRaisesRegex(kind, words)


class Catalog(Case):
    def test_versions(self):
        self.assertEqual(tenon.version(), "0.9.0")
        self.assertEqual(tenon.abi_version(), (0, 9))

    def test_lists_and_describes(self):
        self.assertIn("galore", [p["id"] for p in self.context.plugins("optimizer")])
        self.assertIn("update_proj_gap", str(self.context.info("galore")))
        with self.refused(tenon.NotFoundError, "did you mean 'galore'"):
            self.context.info("galor")
        with self.assertRaises(LookupError):
            self.context.info("galor")
        with self.refused(ValueError, "is not a kind"):
            self.context.plugins("optimiser")

    def test_checks_mixes(self):
        self.assertTrue(self.context.check(optimizer="adamw", adapters=["lora"], quantizer="nf4")["possible"])
        self.assertTrue(self.context.check(optimizer="adamw", quantizer="nf4")["reasons"])
        with self.refused(tenon.ArgumentError, "beta2=1.5"):
            self.context.check(optimizer="adamw:beta2=1.5")
        with self.refused(TypeError, "list of str"):
            self.context.check(optimizer="adamw", tags="device:cuda")
        with self.refused(TypeError, "is a str"):
            self.context.check(optimizer=3)

    def test_bad_texts(self):
        with self.refused(tenon.ArgumentError, "NUL"):
            self.context.info("a\0b")
        with self.refused(tenon.NotFoundError, "abacus"):
            self.context.session("abacus")
        with self.refused(tenon.ArgumentError, "memory limit"):
            self.context.session("onednn", memory_limit=-1)


class Tensors(Case):
    def test_share_memory_with_numpy_both_ways(self):
        t = self.session.tensor((3, 5))
        view = t.numpy()
        view[1, 2] = 7
        out = np.empty((3, 5), np.float32)
        self.assertEqual(t.read(out)[1, 2], 7)
        self.assertEqual(np.from_dlpack(t)[1, 2], 7)
        borrowed = tenon.from_dlpack(view)
        self.assertEqual((borrowed.shape, borrowed.strides, borrowed.dtype), ((3, 5), (5, 1), "float32"))
        self.assertEqual(borrowed.tensor.data, view.ctypes.data)

    def test_views_outlive_what_they_came_from(self):
        t = self.session.tensor((4,)).write(wave(4))
        views = [t.numpy(), np.from_dlpack(t)]
        with self.refused(tenon.StateError, "still viewed"):
            t.close()
        with self.refused(tenon.StateError, "still viewed"):
            self.session.close()
        del t
        gc.collect()
        for view in views:
            np.testing.assert_array_equal(view, wave(4))
        del views, view
        gc.collect()
        self.session.close()

    def test_unused_capsules_are_returned(self):
        t = self.session.tensor((4,))
        capsule = t.__dlpack__()
        del capsule
        gc.collect()
        t.close()

    def test_is_counted_and_limited(self):
        before = self.session.info()["live_bytes"]
        t = self.session.tensor((1000,), category="gradients")
        self.assertGreaterEqual(self.session.info()["categories"]["gradients"]["live"], 4000)
        t.close()
        self.assertEqual(self.session.info()["live_bytes"], before)
        with self.assertRaises(MemoryError):
            self.session.tensor((1 << 30,))

    def test_bad_use(self):
        for shape in [(-1,), (1 << 40, 1 << 40), (1 << 70,), (1, 1, 1, 1, 1)]:
            with self.assertRaises(tenon.ArgumentError, msg=shape):
                self.session.tensor(shape)
        with self.refused(tenon.ArgumentError, "complex64"):
            self.session.tensor((2,), dtype="complex64")
        with self.refused(tenon.ArgumentError, "category"):
            self.session.tensor((2,), category="toys")
        t = self.session.tensor((2, 3))
        with self.refused(tenon.ArgumentError, "shape"):
            t.write(wave(3, 2))
        with self.refused(tenon.ArgumentError, "dtype float64"):
            t.write(np.zeros((2, 3)))
        with self.refused(tenon.ArgumentError, "row-major"):
            t.write(wave(3, 2).T)
        with self.refused(TypeError, "__dlpack__"):
            t.write([[1, 2, 3], [4, 5, 6]])
        fixed = wave(2, 3)
        fixed.flags.writeable = False
        with self.refused(tenon.ArgumentError, "read-only"):
            t.read(fixed)
        t.write(fixed)


class Optimizers(Case):
    def bound(self, spec, *shapes):
        return self.session.optimizer(spec).bind([tenon.Param(shape) for shape in shapes])

    def test_adamw_saves_and_resumes(self):
        def run(w, first, n, states):
            optimizer = self.bound("adamw", (3, 5))
            if states:
                optimizer.load(states)
            for i in range(first, first + n):
                optimizer.step([w], [wave(3, 5) * (1 + i)], lr=0.1)
            self.assertEqual((optimizer.steps, optimizer.state_bytes), (first + n, 120))
            return optimizer.save()

        whole, parts = wave(3, 5), wave(3, 5)
        states = run(whole, 0, 5, None)
        self.assertEqual(run(parts, 2, 3, run(parts, 0, 2, None)), states)
        np.testing.assert_array_equal(whole, parts)
        with self.refused(tenon.ConflictError, "states of adamw, not of sgd"):
            self.bound("sgd", (3, 5)).load(states)
        with self.refused(tenon.FormatError, "cut off|damaged|not the states"):
            self.bound("adamw", (3, 5)).load(states[:-1])
        with self.refused(tenon.FormatError, "not the states"):
            self.bound("adamw", (3, 5)).load(b"nonsense, and more of it")

    def test_missing_gradients_leave_a_parameter_alone(self):
        a, b = wave(4, 4), wave(4)
        optimizer = self.session.optimizer("sgd").bind([a, b])
        optimizer.step([a, b], [None, np.ones(4, np.float32)], lr=0.5)
        np.testing.assert_array_equal(a, wave(4, 4))
        np.testing.assert_allclose(b, wave(4) - 0.5, rtol=1e-6)

    def test_wrong_arrays_are_refused_and_nothing_changes(self):
        w, g = wave(4, 6), wave(4, 6)
        optimizer = self.bound("adamw", (4, 6))
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)
        readonly = np.frombuffer(page, np.float32)[:24].reshape(4, 6)
        forged = np.lib.stride_tricks.as_strided(readonly, (4, 6))
        raw = np.zeros(101, np.uint8)
        cases = {
            "float64": ([w.astype(np.float64)], [g]),
            "shape": ([wave(6, 4)], [g]),
            "row-major": ([np.asfortranarray(w)], [g]),
            "aligned": ([raw[1:97].view(np.float32).reshape(4, 6)], [g]),
            "read-only": ([readonly], [g]),
            "cannot be written|read-only": ([forged], [g]),
            "the gradient has elements of the type int32": ([w], [g.astype(np.int32)]),
            "2 parameters were given": ([w, w], [g]),
            "dimensions": ([np.zeros((1, ) * 5, np.float32)], [g]),
            "<c8": ([w], [g.astype(np.complex64)]),
            "astype": ([w], [g.astype(">f4")]),
        }
        for words, (params, grads) in cases.items():
            with self.refused(tenon.ArgumentError, words):
                optimizer.step(params, grads, lr=0.1)
        with self.assertRaises(TypeError):
            optimizer.step([w], [g], lr="fast")
        with self.assertRaises(TypeError):
            optimizer.step([w.tolist()], [g], lr=0.1)
        np.testing.assert_array_equal(w, wave(4, 6))
        self.assertEqual(optimizer.steps, 0)

    def test_wrong_order_is_refused(self):
        with self.refused(tenon.StateError, "not bound"):
            self.session.optimizer("adamw").step([], [], lr=0.1)
        optimizer = self.bound("adamw", (2, 2))
        with self.refused(tenon.StateError, "bound already"):
            optimizer.bind([tenon.Param((2, 2))])
        with self.refused(tenon.ArgumentError, "role"):
            self.session.optimizer("adamw").bind([tenon.Param((2, 2), role="queen")])
        with self.refused(tenon.ArgumentError, "uid"):
            self.session.optimizer("adamw").bind([tenon.Param((2,), uid=1), tenon.Param((2,), uid=1)])
        with self.refused(tenon.UnsupportedError, "float64|f32"):
            self.session.optimizer("adamw").bind([tenon.Param((2, 2), "float64")])


class Codecs(Case):
    def test_any_range(self):
        nf4 = self.session.quantizer("nf4")
        coded = nf4.encode(wave(64, 128), name="w")
        whole = nf4.decode(coded)
        self.assertLess(np.linalg.norm(whole - wave(64, 128)) / np.linalg.norm(wave(64, 128)), 0.12)
        np.testing.assert_array_equal(nf4.decode(coded, begin=77, end=178), whole.ravel()[77:178])
        self.assertIn("codes", [name for name, _, _ in coded.components()])
        codes = np.frombuffer(coded.component("codes"), np.uint8)
        self.assertEqual(codes.size, 64 * 128 // 2)
        self.assertGreater(np.unique(codes).size, 16)
        with self.refused(tenon.NotFoundError, "there are codes"):
            coded.component("code")

    def test_bad_use(self):
        nf4, other = self.session.quantizer("nf4"), self.session.quantizer("nf4")
        coded = nf4.encode(wave(8, 64))
        with self.refused(tenon.ArgumentError, "another instance"):
            other.decode(coded)
        with self.refused(tenon.ArgumentError, "cannot be decoded"):
            nf4.decode(coded, out=np.empty(10, np.float32))
        with self.refused(tenon.ArgumentError, "cannot be decoded"):
            nf4.decode(coded, out=np.empty(10, np.float32), begin=-5, end=5)
        with self.assertRaises(tenon.TenonError):
            nf4.encode(np.arange(64, dtype=np.int32))
        with self.refused(tenon.NumericError, ""):
            nf4.encode(np.full((8, 64), np.nan, np.float32))
        with self.assertRaises(TypeError):
            nf4.decode("codes")
        coded.close()
        with self.refused(tenon.StateError, "the coded tensor is closed"):
            nf4.decode(coded)


class AttentionCalls(Case):
    def make(self, **changes):
        return self.session.attention("flash-attention", **{"heads": 4, "kv_heads": 2, "head_size": 16, **changes})

    def test_is_causal_and_takes_strides(self):
        q, k, v = wave(1, 8, 4, 16), wave(1, 8, 2, 16), wave(1, 8, 2, 16) + 1
        lse = np.empty((1, 4, 8), np.float32)
        o = self.make().forward(q, k, v, lse=lse)
        np.testing.assert_allclose(o[0, 0, 3], v[0, 0, 1], atol=1e-6)
        self.assertTrue(np.isfinite(lse).all())
        padded = np.zeros((1, 8, 4, 32), np.float32)
        padded[..., :16] = q
        np.testing.assert_array_equal(self.make().forward(padded[..., :16], k, v, out=np.empty_like(q)), o)

    def test_goes_backward(self):
        flash = self.make()
        q, k, v = wave(1, 8, 4, 16), wave(1, 8, 2, 16), wave(1, 8, 2, 16) + 1
        lse, d_o = np.empty((1, 4, 8), np.float32), wave(1, 8, 4, 16) - 0.5
        o = flash.forward(q, k, v, lse=lse)
        dq, dk, dv = flash.backward(q, k, v, o, lse, d_o)
        moved = v.copy()
        moved[0, 5, 1, 2] += 0.5  # o is linear in v
        expected = ((flash.forward(q, k, moved).astype(np.float64) - o) * d_o).sum() / 0.5
        self.assertAlmostEqual(float(dv[0, 5, 1, 2]), expected, places=4)
        self.assertTrue(np.isfinite(dq).all() and np.isfinite(dk).all() and np.abs(dq).max() > 0)
        with self.refused(tenon.ArgumentError, "lse"):
            flash.backward(q, k, v, o, lse[..., :4], d_o)

    def test_bad_use(self):
        flash, q, k = self.make(), wave(1, 8, 4, 16), wave(1, 8, 2, 16)
        for words, arrays in {"shape": (k, k, k), "q has 1 dim": (q.ravel(), k, k), "float64": (q, k.astype(np.float64), k), "stride 1": (q, k[..., ::-1], k)}.items():
            with self.refused(tenon.ArgumentError, words):
                flash.forward(*arrays, out=np.empty_like(q))
        with self.refused(tenon.ArgumentError, "divide"):
            self.make(heads=3)


class Handles(Case):
    def test_closed_ones_are_refused_by_name(self):
        t, optimizer = self.session.tensor((2, 2)), self.session.optimizer("adamw")
        with self.refused(tenon.StateError, "1 sessions"):
            self.context.close()
        self.session.close()
        for use in (self.session.info, lambda: t.shape, lambda: t.numpy(), lambda: optimizer.steps, lambda: optimizer.spec, lambda: self.session.tensor((1,)),
                    lambda: self.session.optimizer("adamw")):
            with self.refused(tenon.StateError, "is closed; make a new one"):
                use()
        t.close(), optimizer.close(), self.session.close()
        self.context.close()
        with self.refused(tenon.StateError, "the context is closed"):
            self.context.plugins()

    def test_garbage_in_any_order(self):
        for _ in range(20):
            session = self.context.session("onednn")
            ring = [session, session.optimizer("adamw").bind([wave(4, 4)]), session.tensor((8,)).numpy(), session.quantizer("nf4").encode(wave(4, 64))]
            ring.append(ring)
            del session, ring
            gc.collect()

    def test_threads_take_turns(self):
        optimizer, w = self.session.optimizer("adamw").bind([wave(64, 64)]), wave(64, 64)
        threads = [threading.Thread(target=lambda: [optimizer.step([w], [wave(64, 64)], lr=0.01) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(optimizer.steps, 80)

    def test_sessions_do_not_wait_for_each_other(self):
        other, done = self.context.session("onednn"), threading.Event()
        with self.session._lock:
            threading.Thread(target=lambda: (other.optimizer("adamw").bind([wave(4)]), done.set())).start()
            self.assertTrue(done.wait(60))

    def test_logs(self):
        tenon.set_log(lambda level, line: None)
        tenon.set_log(None)


class Training(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        with open(f"{self.folder}/data.txt", "w", encoding="utf-8") as data:
            data.writelines(f"The joiner cut tenon {i} to fit mortise {i * 7 % 60}.\n" for i in range(60))

    def recipe(self, **changes):
        return {"model": "preset:9m", "data": f"{self.folder}/data.txt", "output": f"{self.folder}/out", "adapter": ["lora:r=4"], "device": "onednn",
                "seq-len": 16, "batch-size": 2, "steps": 4, "schedule": "constant", "lr": 0.01, "held-out": 0.2, **changes}

    def test_runs_with_callbacks(self):
        steps, points, notes = [], [], []
        with tenon.Trainer(self.recipe(), STORE) as trainer:
            self.assertTrue(trainer.plan()["fits"])
            result = trainer.run(steps.append, lambda *point: points.append(point), notes.append)
        self.assertEqual([s.step for s in steps], [1, 2, 3, 4])
        self.assertEqual([p[0] for p in points], [0, 4])
        self.assertEqual(result["loss"], steps[-1].loss)
        self.assertGreater(steps[-1].peak_bytes, 0)

    def test_stops_by_answer_exception_and_thread(self):
        with tenon.Trainer(self.recipe(), STORE) as trainer:
            self.assertTrue(trainer.run(lambda s: s.step < 2)["stopped"])
        with tenon.Trainer(self.recipe(resume=True), STORE) as trainer:
            with self.refused(ZeroDivisionError, "division"):
                trainer.run(lambda s: 1 / 0)
        with tenon.Trainer(self.recipe(overwrite=True, steps=100000), STORE) as trainer:

            def step(told):
                if told.step == 1:
                    with self.refused(tenon.StateError, "in a call already"):
                        trainer.plan()
                    with self.refused(tenon.StateError, "running"):
                        trainer.close()
                    threading.Thread(target=trainer.stop).start()

            result = trainer.run(step)
        self.assertTrue(result["stopped"])

    def test_an_interrupt_ends_the_run_with_a_checkpoint(self):
        recipe = self.recipe(overwrite=True, steps=100000)
        with tenon.Trainer(recipe, STORE) as trainer:
            metrics = pathlib.Path(recipe["output"]) / "metrics.jsonl"

            def interrupt():
                while not metrics.exists() or metrics.stat().st_size == 0:
                    time.sleep(0.005)
                os.kill(os.getpid(), signal.SIGINT)

            # Whoever runs the tests may ignore the signal, as a shell does for what it runs in the background.
            self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
            metrics.unlink(missing_ok=True)
            threading.Thread(target=interrupt).start()
            with self.assertRaises(KeyboardInterrupt):
                trainer.run()
        self.assertEqual(len(list(metrics.parent.glob("checkpoint-*"))), 1)

    def refused(self, kind, words):
        return self.assertRaisesRegex(kind, words)

    def test_bad_recipes(self):
        for kind, words, recipe in ((tenon.FormatError, "recipe", "{"), (tenon.ArgumentError, "model", {}), (tenon.ArgumentError, "--optimizer", self.recipe(optimiser="adamw")),
                                    (tenon.NotFoundError, "nf4", self.recipe(quantizer="nf5")), (tenon.ArgumentError, "--lr", self.recipe(lr="fast"))):
            with self.refused(kind, words):
                tenon.Trainer(recipe, STORE)
        with self.refused(tenon.NotFoundError, "none.txt"):
            tenon.Trainer(self.recipe(data=f"{self.folder}/none.txt"), STORE).run()
        trainer = tenon.Trainer(self.recipe(), STORE)
        trainer.close()
        with self.refused(tenon.StateError, "the trainer is closed"):
            trainer.run()
        self.assertIn("optimizer", [key["name"] for key in tenon.recipe_keys()])


if __name__ == "__main__":
    unittest.main()
