use std::ffi::{c_void, CString};
use std::ops::Range;
use std::ptr::{null_mut, NonNull};

use sys::size_to;
use tenon_sys as sys;

use crate::error::{c_text, check, take, text_of};
use crate::{Dtype, Error, Kind, Result, Session, View, ViewMut};

/// What a weight is for; some methods look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Role {
    Embedding,
    Head,
    Norm,
    Bias,
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
    Adapter,
    Scale,
    Other,
}

impl Role {
    fn code(self) -> u32 {
        match self {
            Role::Embedding => sys::TN_ROLE_EMBEDDING,
            Role::Head => sys::TN_ROLE_HEAD,
            Role::Norm => sys::TN_ROLE_NORM,
            Role::Bias => sys::TN_ROLE_BIAS,
            Role::Q => sys::TN_ROLE_Q,
            Role::K => sys::TN_ROLE_K,
            Role::V => sys::TN_ROLE_V,
            Role::O => sys::TN_ROLE_O,
            Role::Gate => sys::TN_ROLE_GATE,
            Role::Up => sys::TN_ROLE_UP,
            Role::Down => sys::TN_ROLE_DOWN,
            Role::Adapter => sys::TN_ROLE_ADAPTER,
            Role::Scale => sys::TN_ROLE_SCALE,
            Role::Other => sys::TN_ROLE_OTHER,
        }
    }
}

struct Technique<'s> {
    raw: NonNull<sys::tn_technique>,
    session: &'s Session<'s>,
}

impl<'s> Technique<'s> {
    fn create(session: &'s Session<'s>, make: impl FnOnce(*mut *mut sys::tn_technique) -> i32) -> Result<Technique<'s>> {
        let mut raw = null_mut();
        check(make(&mut raw))?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::argument("the library made no technique"))?;
        Ok(Technique { raw, session })
    }
    fn of_kind(session: &'s Session<'s>, kind: Kind, spec: &str) -> Result<Technique<'s>> {
        let spec = c_text(spec)?;
        Technique::create(session, |out| unsafe { sys::tn_technique_create(session.raw, kind.code(), spec.as_ptr(), out) })
    }
    fn spec(&self) -> Result<String> {
        take(|out| check(unsafe { sys::tn_technique_spec(self.raw.as_ptr(), out) }))
    }
}

impl Drop for Technique<'_> {
    fn drop(&mut self) {
        unsafe { sys::tn_technique_destroy(self.raw.as_ptr()) }
    }
}

fn sizes(shape: &[usize]) -> Result<[i64; 4]> {
    let refuse = || Error::argument(format!("the shape {:?} is not possible; tensors have 0 to 4 dimensions", shape));
    let mut out = [0; 4];
    if shape.len() > 4 {
        return Err(refuse());
    }
    for (to, &from) in out.iter_mut().zip(shape) {
        *to = i64::try_from(from).map_err(|_| refuse())?;
    }
    Ok(out)
}

/// A parameter of an optimizer.
#[derive(Clone, Debug)]
pub struct Param<'a> {
    /// Sizes.
    pub shape: &'a [usize],
    /// As stored.
    pub dtype: Dtype,
    /// What it is for.
    pub role: Role,
    /// Its number in random streams and states, the same in every run.
    pub uid: u32,
    /// For people.
    pub name: &'a str,
}

/// What one step is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Learning rate.
    pub lr: f64,
    /// Multiplies every gradient.
    pub grad_scale: f64,
    /// Of the run.
    pub seed: u64,
    /// 0: unknown.
    pub total_steps: i64,
    /// Seen before this step.
    pub tokens: i64,
}

impl Update {
    /// A step with this learning rate.
    pub fn new(lr: f64) -> Update {
        Update { lr, grad_scale: 1.0, seed: 0, total_steps: 0, tokens: 0 }
    }
}

/// An optimizer, bound to its parameters.
pub struct Optimizer<'s> {
    technique: Technique<'s>,
    params: usize,
}

impl<'s> Optimizer<'s> {
    pub(crate) fn new(session: &'s Session<'s>, spec: &str, params: &[Param]) -> Result<Optimizer<'s>> {
        let technique = Technique::of_kind(session, Kind::Optimizer, spec)?;
        let names = params.iter().map(|p| c_text(p.name)).collect::<Result<Vec<CString>>>()?;
        let mut structs = Vec::with_capacity(params.len());
        for (p, name) in params.iter().zip(&names) {
            structs.push(sys::tn_param {
                struct_size: size_to!(sys::tn_param, name),
                uid: p.uid,
                role: p.role.code(),
                repr: sys::TN_REPR_DENSE,
                block: -1,
                tied_to: -1,
                n_heads: 0,
                n_kv_heads: 0,
                dtype: p.dtype.raw(),
                ndim: p.shape.len() as i32,
                in_axis: if p.shape.len() == 2 { 1 } else { -1 },
                reserved: 0,
                shape: sizes(p.shape)?,
                name: name.as_ptr(),
            });
        }
        let pointers: Vec<*const sys::tn_param> = structs.iter().map(|p| p as *const _).collect();
        check(unsafe { sys::tn_optimizer_bind(technique.raw.as_ptr(), pointers.as_ptr(), pointers.len() as u64) })?;
        Ok(Optimizer { technique, params: params.len() })
    }

    /// Updates `params` in place from `grads` (None: no gradient in this step), in the order in which they were bound.
    pub fn step(&mut self, update: &Update, params: &mut [ViewMut], grads: &[Option<View>]) -> Result<()> {
        if params.len() != self.params || grads.len() != self.params {
            return Err(Error::argument(format!(
                "{} parameters and {} gradients were given for the {} that are bound",
                params.len(),
                grads.len(),
                self.params
            )));
        }
        let update = sys::tn_update {
            struct_size: size_to!(sys::tn_update, grad_scale),
            reserved: 0,
            total_steps: update.total_steps,
            tokens: update.tokens,
            seed: update.seed,
            lr: update.lr,
            grad_scale: update.grad_scale,
        };
        let mut values: Vec<sys::tn_tensor> = params.iter().map(|p| p.parts.raw()).collect();
        let mut gradients: Vec<Option<sys::tn_tensor>> = grads.iter().map(|g| g.as_ref().map(|g| g.parts.raw())).collect();
        let ours: Vec<*mut sys::tn_tensor> = values.iter_mut().map(|t| t as *mut _).collect();
        let theirs: Vec<*mut sys::tn_tensor> = gradients.iter_mut().map(|t| t.as_mut().map_or(null_mut(), |t| t as *mut _)).collect();
        check(unsafe { sys::tn_optimizer_step(self.technique.raw.as_ptr(), &update, ours.as_ptr(), theirs.as_ptr()) })
    }

    /// The canonical spec, with every value.
    pub fn spec(&self) -> Result<String> {
        self.technique.spec()
    }
    /// Steps done.
    pub fn steps(&self) -> i64 {
        unsafe { sys::tn_optimizer_steps(self.technique.raw.as_ptr()) }
    }
    /// Bytes of all states.
    pub fn state_bytes(&self) -> u64 {
        unsafe { sys::tn_optimizer_state_bytes(self.technique.raw.as_ptr()) }
    }

    /// All states, which name plugin, version and layout.
    pub fn save(&self) -> Result<Vec<u8>> {
        unsafe extern "C" fn write(to: *mut c_void, bytes: *const c_void, n: u64) -> i32 {
            let to = &mut *(to as *mut Vec<u8>);
            let n = n as usize;
            if to.try_reserve(n).is_err() {
                return sys::TN_E_MEMORY;
            }
            to.extend_from_slice(std::slice::from_raw_parts(bytes.cast(), n));
            sys::TN_OK
        }
        let mut states = Vec::new();
        let sink = sys::tn_sink {
            struct_size: size_to!(sys::tn_sink, write),
            reserved: 0,
            self_: &mut states as *mut Vec<u8> as *mut c_void,
            write: Some(write),
        };
        check(unsafe { sys::tn_optimizer_save(self.technique.raw.as_ptr(), &sink) })?;
        Ok(states)
    }

    /// What `save` wrote for the same parameters.
    pub fn load(&mut self, states: &[u8]) -> Result<()> {
        check(unsafe { sys::tn_optimizer_load(self.technique.raw.as_ptr(), states.as_ptr().cast(), states.len() as u64) })
    }
}

/// A quantizer.
pub struct Quantizer<'s> {
    technique: Technique<'s>,
}

impl<'s> Quantizer<'s> {
    pub(crate) fn new(session: &'s Session<'s>, spec: &str) -> Result<Quantizer<'s>> {
        Ok(Quantizer { technique: Technique::of_kind(session, Kind::Quantizer, spec)? })
    }
    /// The canonical spec, with every value.
    pub fn spec(&self) -> Result<String> {
        self.technique.spec()
    }
    /// Codes a dense tensor of f32, bf16 or f16.
    pub fn encode(&self, tensor: &View, role: Role, name: &str, seed: u64) -> Result<Coded<'_>> {
        let name = c_text(name)?;
        let mut shape = [0; 4];
        shape[..tensor.shape().len()].copy_from_slice(tensor.shape());
        let target = sys::tn_target {
            struct_size: size_to!(sys::tn_target, name),
            site: sys::TN_SITE_WEIGHT,
            role: role.code(),
            uid: 0,
            block: -1,
            ndim: tensor.shape().len() as i32,
            dtype: tensor.parts.dtype(),
            reserved: 0,
            shape,
            name: name.as_ptr(),
        };
        let mut raw = null_mut();
        check(unsafe { sys::tn_quantizer_encode(self.technique.raw.as_ptr(), &target, &tensor.parts.raw(), seed, &mut raw) })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::argument("the library made no code"))?;
        Ok(Coded { raw, quantizer: self, count: tensor.shape().iter().product::<i64>() as usize })
    }
}

/// A tensor as a quantizer holds it.
pub struct Coded<'q> {
    raw: NonNull<sys::tn_coded>,
    quantizer: &'q Quantizer<'q>,
    count: usize,
}

impl Coded<'_> {
    /// Elements of the tensor.
    pub fn count(&self) -> usize {
        self.count
    }
    /// Bytes of all components.
    pub fn bytes(&self) -> u64 {
        unsafe { sys::tn_coded_bytes(self.raw.as_ptr()) }
    }
    /// Elements of this range of the flattened tensor.
    pub fn decode(&self, range: Range<usize>, out: &mut ViewMut) -> Result<()> {
        let (begin, end) = (range.start as i64, range.end as i64);
        check(unsafe { sys::tn_quantizer_decode(self.quantizer.technique.raw.as_ptr(), self.raw.as_ptr(), begin, end, &mut out.parts.raw()) })
    }
    /// Names of the components.
    pub fn components(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut info = std::ptr::null();
        while unsafe { sys::tn_coded_component(self.raw.as_ptr(), names.len() as u64, &mut info, null_mut()) } == sys::TN_OK {
            names.push(unsafe { text_of((*info).name) });
        }
        names
    }
}

impl Drop for Coded<'_> {
    fn drop(&mut self) {
        unsafe { sys::tn_coded_free(self.raw.as_ptr()) }
    }
}

/// One attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Size of a query and key head.
    pub head_size: u32,
    /// Size of a value head.
    pub value_size: u32,
    /// Of the scores; 0 = 1/sqrt(head_size).
    pub scale: f64,
    /// 0 = off.
    pub softcap: f64,
}

impl AttentionConfig {
    /// Heads of one size.
    pub fn new(heads: u32, kv_heads: u32, head_size: u32) -> AttentionConfig {
        AttentionConfig { heads, kv_heads, head_size, value_size: head_size, scale: 0.0, softcap: 0.0 }
    }
}

/// An attention.
pub struct Attention<'s> {
    technique: Technique<'s>,
}

impl<'s> Attention<'s> {
    pub(crate) fn new(session: &'s Session<'s>, spec: &str, config: &AttentionConfig) -> Result<Attention<'s>> {
        let spec = c_text(spec)?;
        let config = sys::tn_attention_config {
            struct_size: size_to!(sys::tn_attention_config, softcap),
            n_heads: config.heads,
            n_kv_heads: config.kv_heads,
            d_qk: config.head_size,
            d_v: config.value_size,
            layer: 0,
            n_layers: 1,
            head_offset: 0,
            n_heads_global: config.heads,
            reserved: 0,
            scale: config.scale,
            softcap: config.softcap,
        };
        Ok(Attention { technique: Technique::create(session, |out| unsafe { sys::tn_attention_create(session.raw, spec.as_ptr(), &config, out) })? })
    }
    /// The canonical spec, with every value.
    pub fn spec(&self) -> Result<String> {
        self.technique.spec()
    }
    /// Causal attention: q, k, v and out are [batch, tokens, heads, head size] of one dtype, lse (optional) f32 [batch, heads, tokens].
    /// window > 0: only the last `window` keys.
    pub fn forward(&self, q: &View, k: &View, v: &View, window: usize, out: &mut ViewMut, lse: Option<&mut ViewMut>) -> Result<()> {
        let window = i64::try_from(window).map_err(|_| Error::argument("the window is larger than any text"))?;
        let mut statistics = lse.map(|l| l.parts.raw());
        let lse = statistics.as_mut().map_or(null_mut(), |l| l as *mut _);
        check(unsafe {
            sys::tn_attention_forward(self.technique.raw.as_ptr(), &q.parts.raw(), &k.parts.raw(), &v.parts.raw(), window, &mut out.parts.raw(), lse)
        })
    }
    /// The session that it was made on.
    pub fn session(&self) -> &Session<'s> {
        self.technique.session
    }
}
