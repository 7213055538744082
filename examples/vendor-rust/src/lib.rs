//! Symmetric 8-bit integers with one scale a row: round(x / s) with s = max|row| / 127. A row is the last axis.
#[macro_use]
mod plugin;
use plugin::abi::*;
use plugin::*;

/// An instance keeps nothing but its host: everything else comes with each call.
struct Codec {
    host: *const tn_host,
}

fn codec<'a>(instance: *mut tn_quantizer) -> &'a Codec {
    unsafe { &*(instance as *const Codec) }
}

/// Elements and the length of a row.
fn size(target: &tn_target) -> Result<(usize, usize)> {
    if !(0..=4).contains(&target.ndim) {
        return fail(
            TN_E_ARGUMENT,
            format!("int8rows: a tensor has at most 4 axes, not {}", target.ndim),
        );
    }
    let shape = &target.shape[..target.ndim as usize];
    Ok((elements(shape)?, (*shape.last().unwrap_or(&1)).max(1) as usize))
}

unsafe extern "C" fn create(
    host: *const tn_host,
    _: *const *const tn_hyper,
    _: u64,
    out: *mut *mut tn_quantizer,
) -> i32 {
    guard(host, || {
        *out = Box::into_raw(Box::new(Codec { host })) as *mut tn_quantizer;
        Ok(())
    })
}

unsafe extern "C" fn destroy(instance: *mut tn_quantizer) {
    drop(Box::from_raw(instance as *mut Codec));
}

unsafe extern "C" fn supports(instance: *mut tn_quantizer, query: *const tn_query) -> i32 {
    guard(codec(instance).host, || {
        if (*query).device.r#type != TN_CPU as i32 {
            return fail(
                TN_E_UNSUPPORTED,
                "int8rows: this object runs on the CPU; choose --device onednn",
            );
        }
        if ![F32, BF16, F16].iter().any(|&d| same(d, (*query).dtype)) {
            return fail(TN_E_UNSUPPORTED, "int8rows codes f32, bf16 and f16");
        }
        Ok(())
    })
}

unsafe extern "C" fn plan(
    instance: *mut tn_quantizer,
    target: *const tn_target,
    sink: *const tn_component_sink,
) -> i32 {
    guard(codec(instance).host, || {
        let (n, row) = size(&*target)?;
        for (name, dtype, code_bits, n) in [(c!("codes"), I8, 8, n), (c!("scales"), F32, 0, n / row)] {
            let component = tn_component {
                struct_size: size_of::<tn_component>(),
                code_bits,
                flags: 0,
                ndim: 1,
                dtype,
                reserved: 0,
                shape: [n as i64, 0, 0, 0],
                name,
            };
            check(((*sink).declare.unwrap())((*sink).self_, &component))?;
        }
        Ok(())
    })
}

unsafe extern "C" fn estimate(
    instance: *mut tn_quantizer,
    _: *const tn_device_api,
    _: *mut tn_device,
    target: *const tn_target,
    op: u32,
    rows: i64,
    out: *mut tn_estimate,
) -> i32 {
    guard(codec(instance).host, || {
        if op != TN_QUANTIZER_ENCODE && op != TN_QUANTIZER_DECODE {
            return fail(
                TN_E_UNSUPPORTED,
                "int8rows has no fused product; decode and multiply instead",
            );
        }
        let (n, row) = size(&*target)?;
        (*out).state_bytes = (n + 4 * (n / row)) as u64;
        (*out).saved_bytes = 0;
        (*out).workspace_bytes = 0;
        (*out).flops = 2.0 * rows as f64;
        (*out).bytes_moved = (1.0 + (*target).dtype.bits as f64 / 8.0) * rows as f64;
        Ok(())
    })
}

fn encode_row<T: Float>(x: &[T], codes: &mut [i8], scale: &mut f32) -> bool {
    let top = x
        .iter()
        .fold(0f32, |m, v| if v.to_f32().abs() > m { v.to_f32().abs() } else { m });
    if !x.iter().all(|v| v.to_f32().is_finite()) {
        return false;
    }
    *scale = top / 127.0;
    for (code, v) in codes.iter_mut().zip(x) {
        // A row of zeros, or one so small that its scale vanishes, is zeros.
        *code = if *scale > 0.0 {
            nearest(v.to_f32() / *scale).clamp(-127.0, 127.0) as i8
        } else {
            0
        };
    }
    true
}

unsafe extern "C" fn encode(
    instance: *mut tn_quantizer,
    _: *const tn_exec,
    target: *const tn_target,
    src: *const tn_tensor,
    components: *const *mut tn_tensor,
    _: *const tn_rng,
) -> i32 {
    guard(codec(instance).host, || {
        let (n, row) = size(&*target)?;
        let codes = slice::<i8>(*components, I8, n, "int8rows: component codes")?;
        let scales = slice::<f32>(*components.add(1), F32, n / row, "int8rows: component scales")?;
        with_floats!(src as *mut tn_tensor, n, "int8rows: a tensor to quantize", |x| {
            for (r, scale) in scales.iter_mut().enumerate() {
                let at = r * row..(r + 1) * row;
                if !encode_row(&x[at.clone()], &mut codes[at], scale) {
                    return fail(
                        TN_E_NUMERIC,
                        format!(
                            "{}: NaN or Inf in row {r}; only finite weights can be quantized",
                            text((*target).name)
                        ),
                    );
                }
            }
        });
        Ok(())
    })
}

fn decode_range<T: Float>(codes: &[i8], scales: &[f32], row: usize, begin: usize, out: &mut [T]) {
    let end = begin + out.len();
    let mut at = begin;
    while at < end {
        let next = end.min((at / row + 1) * row);
        let scale = scales[at / row];
        for (to, &code) in out[at - begin..next - begin].iter_mut().zip(&codes[at..next]) {
            *to = T::from_f32(scale * code as f32);
        }
        at = next;
    }
}

unsafe extern "C" fn decode(
    instance: *mut tn_quantizer,
    _: *const tn_exec,
    target: *const tn_target,
    components: *const *mut tn_tensor,
    begin: i64,
    end: i64,
    dst: *mut tn_tensor,
) -> i32 {
    guard(codec(instance).host, || {
        let (n, row) = size(&*target)?;
        if begin < 0 || begin > end || end > n as i64 {
            return fail(
                TN_E_ARGUMENT,
                format!(
                    "{}: the range [{begin}, {end}) is not within its {n} elements",
                    text((*target).name)
                ),
            );
        }
        let codes = slice::<i8>(*components, I8, n, "int8rows: component codes")?;
        let scales = slice::<f32>(*components.add(1), F32, n / row, "int8rows: component scales")?;
        with_floats!(dst, (end - begin) as usize, "int8rows: a decoded tensor", |out| {
            decode_range(codes, scales, row, begin as usize, out)
        });
        Ok(())
    })
}

static API: Constant<tn_quantizer_api> = Constant(tn_quantizer_api {
    struct_size: size_of::<tn_quantizer_api>(),
    sites: TN_SITE_WEIGHT | TN_SITE_DELTA,
    create: Some(create),
    destroy: Some(destroy),
    supports: Some(supports),
    plan: Some(plan),
    estimate: Some(estimate),
    encode: Some(encode),
    decode: Some(decode),
    linear: None,
    linear_backward: None,
});

static PLUGIN: Constant<tn_plugin> = Constant(tn_plugin {
    struct_size: size_of::<tn_plugin>(),
    kind: TN_KIND_QUANTIZER,
    abi_major: 0,
    abi_minor: 9,
    id: c!("com.example.int8rows"),
    version: c!("1.0.0"),
    backend: c!("onednn"),
    hypers: std::ptr::null(),
    n_hypers: 0,
    init: Some(no_init),
    deinit: Some(no_deinit),
    api: &API.0 as *const tn_quantizer_api as *const std::os::raw::c_void,
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
