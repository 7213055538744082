//! @NAME@: gradient descent with momentum. Replace step(), the schema and the estimate by your rule's.
//!
//!     m = momentum m + g;   w -= lr (m + weight_decay w)
#[macro_use]
mod plugin;
use plugin::abi::*;
use plugin::*;
use std::collections::HashMap;

struct Parameter {
    shape: Vec<i64>,
    n: usize,
}

/// What an instance keeps: its settings and the sizes of the parameters. States are memory of the host.
struct Rule {
    host: *const tn_host,
    momentum: f64,
    weight_decay: f64,
    parameters: HashMap<u32, Parameter>,
}

impl Rule {
    fn parameter(&self, uid: u32) -> Result<&Parameter> {
        match self.parameters.get(&uid) {
            Some(p) => Ok(p),
            None => fail(
                TN_E_ARGUMENT,
                format!("@NAME@: no parameter with the uid {uid} was bound"),
            ),
        }
    }
}

fn rule<'a>(instance: *mut tn_optimizer) -> &'a Rule {
    unsafe { &*(instance as *const Rule) }
}

unsafe extern "C" fn create(
    host: *const tn_host,
    hypers: *const *const tn_hyper,
    n: u64,
    out: *mut *mut tn_optimizer,
) -> i32 {
    guard(host, || {
        let mut rule = Rule {
            host,
            momentum: 0.0,
            weight_decay: 0.0,
            parameters: HashMap::new(),
        };
        for i in 0..n as usize {
            let hyper = &**hypers.add(i);
            match text(hyper.name).as_ref() {
                "momentum" => rule.momentum = hyper.f,
                "weight_decay" => rule.weight_decay = hyper.f,
                _ => {}
            }
        }
        *out = Box::into_raw(Box::new(rule)) as *mut tn_optimizer;
        Ok(())
    })
}

unsafe extern "C" fn destroy(instance: *mut tn_optimizer) {
    drop(Box::from_raw(instance as *mut Rule));
}

unsafe extern "C" fn supports(instance: *mut tn_optimizer, query: *const tn_query) -> i32 {
    guard(rule(instance).host, || {
        if (*query).device.r#type != TN_CPU as i32 {
            return fail(
                TN_E_UNSUPPORTED,
                "@NAME@: this object runs on the CPU; choose --device onednn",
            );
        }
        if !same((*query).dtype, F32) && !same((*query).dtype, BF16) {
            return fail(
                TN_E_UNSUPPORTED,
                "@NAME@ updates f32 and bf16 parameters; train an adapter over quantized weights",
            );
        }
        Ok(())
    })
}

unsafe extern "C" fn bind(instance: *mut tn_optimizer, params: *const *const tn_param, n: u64) -> i32 {
    let rule = &mut *(instance as *mut Rule);
    guard(rule.host, || {
        rule.parameters.clear();
        for i in 0..n as usize {
            let p = &**params.add(i);
            if p.repr == TN_REPR_QUANTIZED || !(0..=4).contains(&p.ndim) {
                return fail(
                    TN_E_UNSUPPORTED,
                    format!("@NAME@: {} is quantized or has more than 4 axes", text(p.name)),
                );
            }
            let shape = p.shape[..p.ndim as usize].to_vec();
            let n = elements(&shape)?;
            if rule.parameters.insert(p.uid, Parameter { shape, n }).is_some() {
                return fail(TN_E_ARGUMENT, format!("@NAME@: two parameters have the uid {}", p.uid));
            }
        }
        Ok(())
    })
}

unsafe extern "C" fn state_layout(instance: *mut tn_optimizer, uid: u32, sink: *const tn_state_sink) -> i32 {
    guard(rule(instance).host, || {
        let p = rule(instance).parameter(uid)?;
        let mut slot = tn_state_slot {
            struct_size: size_of::<tn_state_slot>(),
            role: TN_SLOT_VALUE,
            flags: 0,
            ndim: p.shape.len() as i32,
            dtype: F32,
            reserved: 0,
            shape: [0; 4],
            name: c!("momentum"),
        };
        slot.shape[..p.shape.len()].copy_from_slice(&p.shape);
        check(((*sink).declare.unwrap())((*sink).self_, &slot))
    })
}

unsafe extern "C" fn estimate(
    instance: *mut tn_optimizer,
    _: *const tn_device_api,
    _: *mut tn_device,
    uid: u32,
    out: *mut tn_estimate,
) -> i32 {
    guard(rule(instance).host, || {
        let n = rule(instance).parameter(uid)?.n;
        (*out).state_bytes = 4 * n as u64;
        (*out).saved_bytes = 0;
        (*out).workspace_bytes = 0;
        (*out).flops = 6.0 * n as f64;
        (*out).bytes_moved = 20.0 * n as f64;
        Ok(())
    })
}

struct Numbers {
    momentum: f32,
    decay: f32,
    lr: f32,
    grad_scale: f32,
}

/// The rule: `weights` is the truth, which is the master where there is one.
fn step<W: Float, G: Float>(a: &Numbers, weights: &mut [W], momentum: &mut [f32], gradients: &[G]) {
    for ((w, m), g) in weights.iter_mut().zip(momentum).zip(gradients) {
        *m = a.momentum * *m + a.grad_scale * g.to_f32();
        *w = W::from_f32(w.to_f32() - a.decay * w.to_f32() - a.lr * *m);
    }
}

fn update(rule: &Rule, item: &tn_item) -> Result {
    let n = rule.parameter(item.uid)?.n;
    if item.grad.is_null() {
        return Ok(());
    }
    if item.n_states != 1 {
        return fail(
            TN_E_ARGUMENT,
            format!("@NAME@: {} states were passed where 1 belongs", item.n_states),
        );
    }
    let a = Numbers {
        momentum: rule.momentum as f32,
        decay: (item.lr * rule.weight_decay * item.decay_scale) as f32,
        lr: item.lr as f32,
        grad_scale: item.grad_scale as f32,
    };
    let momentum = unsafe { slice::<f32>(*item.states, F32, n, "@NAME@: the momentum")? };
    with_floats!(item.grad, n, "@NAME@: the gradient", |g| {
        if item.master.is_null() {
            with_floats!(item.param, n, "@NAME@: the parameter", |w| step(&a, w, momentum, g));
        } else {
            let master = unsafe { slice::<f32>(item.master, F32, n, "@NAME@: the master")? };
            step(&a, master, momentum, g);
            with_floats!(item.param, n, "@NAME@: the parameter", |w| round(master, w));
        }
    });
    Ok(())
}

/// The parameter as the rounding of its master.
fn round<W: Float>(master: &[f32], weights: &mut [W]) {
    for (w, x) in weights.iter_mut().zip(master) {
        *w = W::from_f32(*x);
    }
}

unsafe extern "C" fn apply(
    instance: *mut tn_optimizer,
    _: *const tn_exec,
    items: *const *const tn_item,
    n: u64,
) -> i32 {
    guard(rule(instance).host, || {
        (0..n as usize).try_for_each(|i| update(rule(instance), &**items.add(i)))
    })
}

const fn real(
    name: *const std::os::raw::c_char,
    default_value: *const std::os::raw::c_char,
    max: f64,
    doc: *const std::os::raw::c_char,
) -> tn_hyper_info {
    tn_hyper_info {
        struct_size: size_of::<tn_hyper_info>(),
        r#type: TN_TYPE_FLOAT,
        name,
        default_value,
        min: 0.0,
        max,
        flags: TN_RANGE_OPEN_MAX,
        reserved: 0,
        choices: std::ptr::null(),
        unit: std::ptr::null(),
        doc,
    }
}
static MOMENTUM: Constant<tn_hyper_info> = Constant(real(
    c!("momentum"),
    c!("0.9"),
    1.0,
    c!("how much of the last update is kept"),
));
static WEIGHT_DECAY: Constant<tn_hyper_info> = Constant(real(
    c!("weight_decay"),
    c!("0"),
    f64::INFINITY,
    c!("decoupled: the weight shrinks by lr * this"),
));
static HYPERS: Constant<[*const tn_hyper_info; 2]> = Constant([&MOMENTUM.0, &WEIGHT_DECAY.0]);

static API: Constant<tn_optimizer_api> = Constant(tn_optimizer_api {
    struct_size: size_of::<tn_optimizer_api>(),
    caps: TN_OPTIMIZER_ONE_AT_A_TIME | TN_OPTIMIZER_ROWWISE | TN_OPTIMIZER_ELEMENTWISE,
    create: Some(create),
    destroy: Some(destroy),
    supports: Some(supports),
    bind: Some(bind),
    state_layout: Some(state_layout),
    estimate: Some(estimate),
    plan: None,
    prepare: None,
    apply: Some(apply),
    finish: None,
    save: None,
    load: None,
});

static PLUGIN: Constant<tn_plugin> = Constant(tn_plugin {
    struct_size: size_of::<tn_plugin>(),
    kind: TN_KIND_OPTIMIZER,
    abi_major: 0,
    abi_minor: 9,
    id: c!("@ID@"),
    version: c!("0.1.0"),
    backend: c!("onednn"),
    hypers: &HYPERS.0 as *const *const tn_hyper_info,
    n_hypers: 2,
    init: Some(no_init),
    deinit: Some(no_deinit),
    api: &API.0 as *const tn_optimizer_api as *const std::os::raw::c_void,
    get_extension: Some(no_extension),
});

/// The one symbol that leaves the plugin.
#[no_mangle]
pub unsafe extern "C" fn tn_plugin_entry(
    major: u32,
    minor: u32,
    host: *const tn_host,
    out: *mut *const tn_plugin,
) -> i32 {
    enter(major, minor, host, &PLUGIN.0, out)
}
