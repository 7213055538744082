//! The worked example: worked STORE FOLDER. The other languages' examples print the same digits.
use std::cell::RefCell;

use tenon::*;

const SAMPLES: usize = 16;
const IN: usize = 16;
const OUT: usize = 8;
const STEPS: usize = 150;

/// n numbers of [-0.5, 0.5) that every language makes alike, exact in f32.
fn fill(n: usize, mut seed: u64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 40) as f64 / 16777216.0 - 0.5) as f32
        })
        .collect()
}

fn digest(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(14695981039346656037, |h, byte| (h ^ byte as u64).wrapping_mul(1099511628211))
}

fn f32_digest(values: &[f32]) -> u64 {
    digest(values.iter().flat_map(|v| v.to_le_bytes()))
}

/// Mean squared error of X Wᵀ against X Tᵀ, and its gradient, in f64.
fn loss_and_gradient(x: &[f32], t: &[f32], w: &[f32], g: &mut [f32]) -> f64 {
    let mut loss = 0.0;
    let mut sums = [0f64; OUT * IN];
    for s in 0..SAMPLES {
        for o in 0..OUT {
            let mut error = 0.0;
            for i in 0..IN {
                error += x[s * IN + i] as f64 * (w[o * IN + i] as f64 - t[o * IN + i] as f64);
            }
            loss += error * error;
            for i in 0..IN {
                sums[o * IN + i] += error * x[s * IN + i] as f64;
            }
        }
    }
    for (g, sum) in g.iter_mut().zip(sums) {
        *g = (sum * (2.0 / (SAMPLES * OUT) as f64)) as f32;
    }
    loss / (SAMPLES * OUT) as f64
}

fn regression(session: &Session) -> Result<()> {
    let shape = [OUT, IN];
    let param = Param { shape: &shape, dtype: Dtype::F32, role: Role::Q, uid: 1, name: "w" };
    let mut galore = session.optimizer("galore:rank=4,update_proj_gap=10,scale=1", &[param])?;
    let (x, t, mut w, mut g) = (fill(SAMPLES * IN, 1), fill(OUT * IN, 2), fill(OUT * IN, 3), vec![0f32; OUT * IN]);
    let update = Update { seed: 7, ..Update::new(0.05) };
    let first = loss_and_gradient(&x, &t, &w, &mut g);
    let mut last = first;
    for _ in 0..STEPS {
        galore.step(&update, &mut [ViewMut::new(&mut w, &shape)?], &[Some(View::new(&g, &shape)?)])?;
        last = loss_and_gradient(&x, &t, &w, &mut g);
    }
    println!("galore: loss {:.6}, after {} steps {:.6}, digest {:016x}", first, STEPS, last, f32_digest(&w));
    Ok(())
}

fn codec(session: &Session) -> Result<()> {
    let (matrix, mut back) = (fill(64 * 128, 11), vec![0f32; 64 * 128]);
    let nf4 = session.quantizer("nf4")?;
    let coded = nf4.encode(&View::new(&matrix, &[64, 128])?, Role::Other, "matrix", 1)?;
    coded.decode(0..matrix.len(), &mut ViewMut::new(&mut back, &[64, 128])?)?;
    let worst = matrix.iter().zip(&back).map(|(a, b)| (*b as f64 - *a as f64).abs()).fold(0.0, f64::max);
    println!("nf4: {} bytes, worst error {:.6}, digest {:016x}", coded.bytes(), worst, f32_digest(&back));
    Ok(())
}

fn attention(session: &Session) -> Result<()> {
    let flash = session.attention("flash-attention", &AttentionConfig::new(4, 2, 16))?;
    let (q, k, v) = (fill(16 * 4 * 16, 21), fill(16 * 2 * 16, 22), fill(16 * 2 * 16, 23));
    let mut o = vec![0f32; q.len()];
    let (wide, narrow) = ([1, 16, 4, 16], [1, 16, 2, 16]);
    flash.forward(&View::new(&q, &wide)?, &View::new(&k, &narrow)?, &View::new(&v, &narrow)?, 0, &mut ViewMut::new(&mut o, &wide)?, None)?;
    println!("attention: digest {:016x}", f32_digest(&o));
    Ok(())
}

fn training(store: &str, folder: &str) -> Result<()> {
    let data = format!("{}/data.txt", folder);
    let text: String = (0..60).map(|i| format!("The joiner cut tenon {} to fit mortise {}.\n", i, i * 7 % 60)).collect();
    std::fs::write(&data, text).expect("the folder can be written");
    let recipe = Recipe::new()
        .text("model", "preset:9m")
        .text("data", &data)
        .text("output", &format!("{}/out", folder))
        .text("device", "onednn")
        .text("adapter", "lora:r=4")
        .text("quantizer", "nf4")
        .text("optimizer", "galore:rank=4")
        .number("seq-len", 32.0)
        .number("batch-size", 2.0)
        .number("steps", 5.0)
        .number("lr", 0.01)
        .text("schedule", "constant")
        .number("seed", 3.0);
    let losses = RefCell::new(Vec::new());
    let mut events = Events {
        step: Some(Box::new(|step| {
            losses.borrow_mut().push(step.loss);
            Control::Continue
        })),
        ..Events::default()
    };
    Trainer::new(&[store], &recipe)?.run(&mut events)?;
    let losses = losses.borrow();
    let bytes = losses.iter().flat_map(|l| l.to_le_bytes());
    println!("train: {} steps, loss {:.6}, digest {:016x}", losses.len(), losses[losses.len() - 1], digest(bytes));
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let (store, folder) = match &arguments[..] {
        [_, store, folder] => (store, folder),
        _ => {
            eprintln!("worked STORE FOLDER");
            std::process::exit(2);
        }
    };
    let context = Context::open(&[store])?;
    let plugins = context.plugins(None)?;
    let ids: Vec<&str> = plugins.items().iter().filter_map(|p| p.get("id")?.as_str()).collect();
    println!("catalog: {}", ids.join(", "));
    let specs = [(Kind::Optimizer, "galore:rank=4"), (Kind::Adapter, "lora:r=4"), (Kind::Quantizer, "nf4"), (Kind::Attention, "flash-attention")];
    let mix = context.check(&specs, &[])?;
    let why_not = context.check(&specs[..1], &["device:abacus"])?;
    println!("mix: {}; {}", if mix.possible { "possible" } else { "not possible" }, why_not.reasons[0]);
    let session = context.session("onednn", 0)?;
    regression(&session)?;
    codec(&session)?;
    attention(&session)?;
    training(store, folder)
}
