//! The crate on the plugins of the build tree: what works, and what wrong use gets. What must not compile is in the crate's own text.
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;

use tenon::*;

fn store() -> String {
    std::env::var("TENON_TEST_STORE").expect("TENON_TEST_STORE names the store of the build tree")
}

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| (0.37 * i as f32).sin()).collect()
}

#[track_caller]
fn refused<T>(result: Result<T>, status: Status, words: &str) {
    match result {
        Ok(_) => panic!("not refused: {}", words),
        Err(e) => assert!(e.status() == status && e.to_string().contains(words), "{:?}: {}", e.status(), e),
    }
}

fn param<'a>(shape: &'a [usize], dtype: Dtype, uid: u32) -> Param<'a> {
    Param { shape, dtype, role: Role::Q, uid, name: "w" }
}

#[test]
fn knows_what_is_installed() {
    assert_eq!(version(), "0.9.0");
    assert_eq!(abi_version(), (0, 9));
    let context = Context::open(&[&store()]).unwrap();
    assert!(context.plugins(Some(Kind::Optimizer)).unwrap().items().iter().any(|p| p.get("id").and_then(Json::as_str) == Some("galore")));
    assert!(context.info("galore").unwrap().to_string().contains("update_proj_gap"));
    refused(context.info("galor"), Status::NotFound, "did you mean 'galore'");
    refused(context.info("a\0b"), Status::Argument, "NUL");
    refused(context.check(&[(Kind::Optimizer, "adamw:beta2=1.5")], &[]), Status::Argument, "beta2=1.5");
    assert!(!context.check(&[(Kind::Optimizer, "adamw"), (Kind::Quantizer, "nf4")], &[]).unwrap().possible);
    refused(context.session("abacus", 0), Status::NotFound, "abacus");
}

#[test]
fn adamw_saves_and_resumes_bit_for_bit() {
    let context = Context::open(&[&store()]).unwrap();
    let session = context.session("onednn", 0).unwrap();
    let run = |w: &mut Vec<f32>, first: i64, n: i64, states: Option<&[u8]>| {
        let mut adamw = session.optimizer("adamw", &[param(&[3, 5], Dtype::F32, 1)]).unwrap();
        if let Some(states) = states {
            adamw.load(states).unwrap();
        }
        for i in first..first + n {
            let g: Vec<f32> = wave(15).iter().map(|g| g * (1 + i) as f32).collect();
            adamw.step(&Update::new(0.1), &mut [ViewMut::new(w, &[3, 5]).unwrap()], &[Some(View::new(&g, &[3, 5]).unwrap())]).unwrap();
        }
        assert_eq!((adamw.steps(), adamw.state_bytes()), (first + n, 120));
        adamw.save().unwrap()
    };
    let (mut whole, mut parts) = (wave(15), wave(15));
    let states = run(&mut whole, 0, 5, None);
    let begun = run(&mut parts, 0, 2, None);
    assert_eq!(run(&mut parts, 2, 3, Some(&begun)), states);
    assert_eq!(whole, parts);
    let mut sgd = session.optimizer("sgd", &[param(&[3, 5], Dtype::F32, 1)]).unwrap();
    refused(sgd.load(&states), Status::Conflict, "states of adamw, not of sgd");
    refused(sgd.load(b"nonsense, and more of it"), Status::Format, "not the states");
    refused(sgd.load(&[]), Status::Format, "not the states");
}

#[test]
fn wrong_tensors_are_refused_and_nothing_changes() {
    let context = Context::open(&[&store()]).unwrap();
    let session = context.session("onednn", 1 << 20).unwrap();
    let mut adamw = session.optimizer("adamw", &[param(&[4, 6], Dtype::F32, 1)]).unwrap();
    let (mut w, g) = (wave(24), wave(24));
    let update = Update::new(0.1);
    let grad = || Some(View::new(&g, &[4, 6]).unwrap());
    refused(adamw.step(&update, &mut [ViewMut::new(&mut w, &[6, 4]).unwrap()], &[grad()]), Status::Argument, "shape");
    refused(adamw.step(&update, &mut [ViewMut::strided(&mut w, &[4, 6], &[1, 4]).unwrap()], &[grad()]), Status::Argument, "row-major");
    refused(adamw.step(&update, &mut [ViewMut::new(&mut [0f64; 24], &[4, 6]).unwrap()], &[grad()]), Status::Argument, "float64");
    refused(
        adamw.step(&update, &mut [ViewMut::new(&mut w, &[4, 6]).unwrap()], &[Some(View::new(&[1i32; 24], &[4, 6]).unwrap())]),
        Status::Argument,
        "int32",
    );
    refused(adamw.step(&update, &mut [], &[]), Status::Argument, "for the 1 that are bound");
    refused(ViewMut::new(&mut w, &[4, 7]), Status::Argument, "does not fit a slice of 24 elements");
    refused(View::new(&g, &[usize::MAX, 2]), Status::Argument, "does not fit");
    refused(View::strided(&g, &[4, 6], &[7, 1]), Status::Argument, "does not fit");
    refused(View::strided(&g, &[4, 6], &[6]), Status::Argument, "1 strides were given for 2 dimensions");
    refused(View::new(&g, &[24, 1, 1, 1, 1]), Status::Argument, "dimensions");
    assert_eq!(w, wave(24));
    assert_eq!(adamw.steps(), 0);
    refused(session.optimizer("adamw", &[param(&[2], Dtype::F32, 1), param(&[2], Dtype::F32, 1)]), Status::Argument, "uid");
    refused(session.optimizer("adamw", &[param(&[2], Dtype::F64, 1)]), Status::Unsupported, "");
    refused(session.optimizer("nf4", &[]), Status::NotFound, "nf4");
    refused(session.tensor(Category::Weights, Dtype::F32, &[1 << 20]), Status::Memory, "memory limit");
    refused(session.tensor(Category::Weights, Dtype::F32, &[usize::MAX]), Status::Argument, "makes no tensor");
}

#[test]
fn tensors_of_the_session_are_counted_and_usable() {
    let context = Context::open(&[&store()]).unwrap();
    let session = context.session("onednn", 0).unwrap();
    let live = || session.info().unwrap().get("live_bytes").and_then(Json::as_f64).unwrap();
    let before = live();
    {
        let mut w = session.tensor(Category::Weights, Dtype::F32, &[4]).unwrap();
        w.write(&wave(4)).unwrap();
        let mut sgd = session.optimizer("sgd", &[param(&[4], Dtype::F32, 1), param(&[2], Dtype::F32, 2)]).unwrap();
        let mut frozen = [1f32, 2.0];
        let params = &mut [w.view_mut(), ViewMut::new(&mut frozen, &[2]).unwrap()];
        sgd.step(&Update::new(0.5), params, &[Some(View::new(&[1f32; 4], &[4]).unwrap()), None]).unwrap();
        let mut out = [0f32; 4];
        w.read(&mut out).unwrap();
        assert!(out.iter().zip(wave(4)).all(|(a, b)| (a - (b - 0.5)).abs() < 1e-6));
        assert_eq!(frozen, [1.0, 2.0]);
        refused(w.read(&mut [0f64; 4]), Status::Argument, "F64");
        refused(w.write(&[0f32; 3]), Status::Argument, "16 bytes but 12");
        assert!(live() > before);
    }
    assert_eq!(live(), before);
}

#[test]
fn codes_and_decodes_any_range() {
    let context = Context::open(&[&store()]).unwrap();
    let session = context.session("onednn", 0).unwrap();
    let nf4 = session.quantizer("nf4").unwrap();
    let w = wave(64 * 128);
    let coded = nf4.encode(&View::new(&w, &[64, 128]).unwrap(), Role::Q, "w", 0).unwrap();
    let (mut whole, mut part) = (vec![0f32; w.len()], [0f32; 101]);
    coded.decode(0..coded.count(), &mut ViewMut::new(&mut whole, &[64, 128]).unwrap()).unwrap();
    coded.decode(77..178, &mut ViewMut::new(&mut part, &[101]).unwrap()).unwrap();
    assert_eq!(whole[77..178], part);
    assert!(coded.components().contains(&"codes".to_string()));
    refused(coded.decode(0..100, &mut ViewMut::new(&mut part, &[101]).unwrap()), Status::Argument, "cannot be decoded");
    refused(coded.decode(w.len()..w.len() + 101, &mut ViewMut::new(&mut part, &[101]).unwrap()), Status::Argument, "cannot be decoded");
    refused(nf4.encode(&View::new(&[1i32; 64], &[64]).unwrap(), Role::Q, "w", 0), Status::Unsupported, "");
    refused(nf4.encode(&View::new(&[f32::NAN; 64], &[64]).unwrap(), Role::Q, "w", 0), Status::Numeric, "");
}

#[test]
fn attends() {
    let context = Context::open(&[&store()]).unwrap();
    let session = context.session("onednn", 0).unwrap();
    let flash = session.attention("flash-attention", &AttentionConfig::new(2, 1, 16)).unwrap();
    let (q, k, v) = (wave(256), wave(128), wave(128));
    let (mut o, mut lse) = (vec![0f32; 256], vec![0f32; 16]);
    let (wide, narrow) = ([1, 8, 2, 16], [1, 8, 1, 16]);
    let (vq, vk, vv) = (View::new(&q, &wide).unwrap(), View::new(&k, &narrow).unwrap(), View::new(&v, &narrow).unwrap());
    flash.forward(&vq, &vk, &vv, 0, &mut ViewMut::new(&mut o, &wide).unwrap(), Some(&mut ViewMut::new(&mut lse, &[1, 2, 8]).unwrap())).unwrap();
    assert!((0..32).all(|i| (o[i] - v[i % 16]).abs() < 1e-6));
    assert!(lse.iter().all(|l| l.is_finite()));
    refused(flash.forward(&vk, &vk, &vv, 0, &mut ViewMut::new(&mut o, &wide).unwrap(), None), Status::Argument, "q does not have the shape");
    refused(flash.forward(&vq, &vk, &vv, 0, &mut ViewMut::new(&mut [0f64; 256], &wide).unwrap(), None), Status::Argument, "float64");
    refused(session.attention("flash-attention", &AttentionConfig::new(3, 2, 16)), Status::Argument, "divide");
}

#[test]
fn sessions_run_in_parallel() {
    let context = Context::open(&[&store()]).unwrap();
    let results: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let session = context.session("onednn", 0).unwrap();
                    let mut adamw = session.optimizer("adamw", &[param(&[8, 8], Dtype::F32, 1)]).unwrap();
                    let (mut w, g) = (wave(64), wave(64));
                    for _ in 0..10 {
                        adamw
                            .step(&Update::new(0.01), &mut [ViewMut::new(&mut w, &[8, 8]).unwrap()], &[Some(View::new(&g, &[8, 8]).unwrap())])
                            .unwrap();
                    }
                    w
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tenon-rust-{}-{}", std::process::id(), name));
        std::fs::create_dir_all(&path).unwrap();
        let text: String = (0..60).map(|i| format!("The joiner cut tenon {} to fit mortise {}.\n", i, i * 7 % 60)).collect();
        std::fs::write(path.join("data.txt"), text).unwrap();
        Folder(path)
    }
    fn recipe(&self, steps: f64) -> Recipe {
        let path = |name: &str| self.0.join(name).to_str().unwrap().to_string();
        Recipe::new()
            .text("model", "preset:9m")
            .text("data", &path("data.txt"))
            .text("output", &path("out"))
            .text("device", "onednn")
            .list("adapter", &["lora:r=4"])
            .number("seq-len", 16.0)
            .number("batch-size", 2.0)
            .number("steps", steps)
            .number("held-out", 0.2)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn trains_and_tells() {
    let folder = Folder::new("tells");
    let mut trainer = Trainer::new(&[&store()], &folder.recipe(4.0)).unwrap();
    assert_eq!(trainer.plan().unwrap().get("fits").and_then(Json::as_bool), Some(true));
    let (steps, points) = (Cell::new(0), Cell::new(0));
    let mut events = Events {
        step: Some(Box::new(|s| {
            steps.set(s.step);
            assert!(s.peak_bytes > 0 && s.loss.is_finite());
            Control::Continue
        })),
        evaluated: Some(Box::new(|_, _, perplexity| {
            assert!(perplexity > 1.0);
            points.set(points.get() + 1);
        })),
        note: Some(Box::new(|_| {})),
    };
    let result = trainer.run(&mut events).unwrap();
    assert_eq!((steps.get(), points.get()), (4, 2));
    assert_eq!(result.get("stopped").and_then(Json::as_bool), Some(false));
    refused(trainer.run_quietly(), Status::Conflict, "already holds a run");
}

#[test]
fn stops_by_answer_panic_and_thread() {
    let folder = Folder::new("stops");
    let recipe = folder.recipe(100000.0);
    let mut trainer = Trainer::new(&[&store()], &recipe).unwrap();
    let mut events = Events { step: Some(Box::new(|s| if s.step < 2 { Control::Continue } else { Control::Stop })), ..Events::default() };
    assert_eq!(trainer.run(&mut events).unwrap().get("steps").and_then(Json::as_f64), Some(2.0));

    let mut trainer = Trainer::new(&[&store()], &recipe.clone().switch("resume", true)).unwrap();
    let mut events = Events { step: Some(Box::new(|_| panic!("the caller's own"))), ..Events::default() };
    let panic = catch_unwind(AssertUnwindSafe(|| trainer.run(&mut events))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the caller's own"));

    let mut trainer = Trainer::new(&[&store()], &recipe.switch("overwrite", true)).unwrap();
    let stopper = trainer.stopper();
    let other = std::thread::spawn(move || stopper.stop());
    assert_eq!(trainer.run_quietly().unwrap().get("stopped").and_then(Json::as_bool), Some(true));
    other.join().unwrap();
}

#[test]
fn bad_recipes_are_refused() {
    let make = |recipe: &Recipe| Trainer::new(&[&store()], recipe);
    refused(make(&Recipe::new()), Status::Argument, "model");
    refused(make(&Recipe::new().text("model", "preset:9m").text("optimiser", "adamw")), Status::Argument, "--optimizer");
    refused(make(&Recipe::new().text("model", "preset:9m").text("quantizer", "nf5")), Status::NotFound, "nf4");
    refused(make(&Recipe::new().text("model", "preset:9m").number("lr", f64::NAN).text("lr", "fast")), Status::Format, "lr");
    refused(Trainer::from_json(&[&store()], "{"), Status::Format, "recipe");
    assert!(recipe_keys().unwrap().items().iter().any(|key| key.get("name").and_then(Json::as_str) == Some("optimizer")));
}

#[test]
fn json_is_read_and_written() {
    let text = r#"{"a":[1,-2.5,"\"\\\u00e9\ud83d\ude00"],"b":null,"c":true}"#;
    let value = Json::parse(text).unwrap();
    assert_eq!(value.get("a").unwrap().items()[2].as_str(), Some("\"\\é😀"));
    assert_eq!(Json::parse(&value.to_string()).unwrap(), value);
    for bad in ["", "{", "[1 2]", "{\"a\"}", "\"\\u12\"", "\"\\ud83d\"", "nul", "1 2", "--1", &"[".repeat(100000)] {
        assert_eq!(Json::parse(bad).unwrap_err().status(), Status::Format, "{}", &bad[..bad.len().min(20)]);
    }
}
