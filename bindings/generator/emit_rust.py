"""Raw declarations of the crate tenon-sys."""
import common

KEYWORDS = {"as", "box", "fn", "in", "loop", "match", "move", "mut", "ref", "type", "use", "where", "impl", "mod", "pub", "trait", "dyn"}
HEAD = '''
use std::mem::{align_of, size_of, MaybeUninit};
use std::os::raw::{c_char, c_void};
use std::ptr::addr_of;
'''


def word(name):
    return "self_" if name == "self" else f"r#{name}" if name in KEYWORDS else name


def spell(type_):
    if type_.kind == "base":
        if type_.name in common.INTEGERS:
            signed, bits = common.INTEGERS[type_.name]
            return f"{'i' if signed else 'u'}{bits}"
        return {"double": "f64", "float": "f32", "char": "c_char", "void": "c_void"}.get(type_.name, type_.name)
    if type_.kind == "array":
        return f"[{spell(type_.inner)}; {type_.count}]"
    if type_.kind == "pointer":
        return f"*{'const' if type_.const else 'mut'} {spell(type_.inner)}"
    return f'Option<unsafe extern "C" fn({arguments(type_.params)}){result(type_.inner)}>'


def arguments(params):
    return ", ".join(f"{word(p.name)}: {spell(p.type)}" for p in params)


def result(type_):
    return "" if common.returns_nothing(type_) else f" -> {spell(type_)}"


def literal(name, value):
    kind = "i32" if name.startswith("TN_E_") or name in ("TN_OK", "TN_DEGRADED") or value < 0 else "u32"
    return f"pub const {name}: {kind} = {value};"


def emit(found):
    out = [common.note("//") + HEAD]
    out += [literal(name, value) for name, value in common.constants(found)]
    out += [f'pub const {name}: &[u8] = b"{value}\\0";' for header in found for name, value in header.strings]
    for name in common.opaque(found):
        out += ["", "#[repr(C)]", f"pub struct {name} {{", "    _private: [u8; 0],", "}"]
    for header in found:
        out += [f"\npub type {n.name} = {spell(n.type)};" for n in header.callbacks]
    for s in common.structs(found):
        out += ["", "#[repr(C)]", "#[derive(Clone, Copy)]", f"pub struct {s.name} {{"]
        out += [f"    pub {word(f.name)}: {spell(f.type)}," for f in s.fields] + ["}"]
    for library in common.LIBRARIES.values():
        out += ["", f'#[link(name = "{library}")]', 'extern "C" {']
        out += [f"    pub fn {f.name}({arguments(f.params)}){result(f.result)};" for owner, f in common.functions(found) if owner == library] + ["}"]
    out += ["", "fn width<S, F>(_: impl Fn(*const S) -> *const F) -> usize {", "    size_of::<F>()", "}", "",
            "/// Every struct, field and constant in the words of the golden table of the ABI.", "pub fn layout() -> Vec<String> {",
            "    let mut lines = Vec::new();"]
    for kind, row in common.golden(found):
        if kind == "constant":
            out.append(f'    lines.push(format!("{row} = {{}}", {row}));')
            continue
        out += ["    {", f"        let m = MaybeUninit::<{row.name}>::uninit();", "        let p = m.as_ptr();",
                f'        lines.push(format!("struct {row.name} size {{}} align {{}}", size_of::<{row.name}>(), align_of::<{row.name}>()));']
        for f in row.fields:
            out.append(f'        lines.push(format!("  {f.name} offset {{}} size {{}}", unsafe {{ addr_of!((*p).{word(f.name)}) as usize - p as usize }}, '
                       f"width(|p: *const {row.name}| unsafe {{ addr_of!((*p).{word(f.name)}) }})));")
        out.append("    }")
    return "\n".join(out + ["    lines", "}", ""])
